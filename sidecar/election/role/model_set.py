"""Whether an instance with another model set than the primary's takes no requests. Pure.

Nobody is taken out by what another one does: if the primary changes its model set, those that
served beside it go on, or nobody could when it fails. Only who comes with another set is refused.
"""

from dataclasses import dataclass

from sidecar.election import candidacy
from sidecar.election.keys.orders import ElectionState


@dataclass(frozen=True, slots=True)
class OwnModelSet:
    """What is the instance's own in a comparison: what it serves, is told to serve, is to do."""

    model_set: str = ""
    declared: str = ""
    refuse: bool = True


@dataclass(frozen=True, slots=True)
class Stance:
    """How it stands to the primary.

    `differs` tells whose model set is another one, or nothing, and `refuses` whether it takes no
    requests for that. It is in `accord` with a primary that lives and does not make it refuse;
    `agreed` is with what of its own it has served so last.
    """

    own: OwnModelSet = OwnModelSet()
    differs: str = ""
    refuses: bool = False
    accord: bool = False
    agreed: OwnModelSet | None = None


def compare(
    before: Stance, own: OwnModelSet, state: ElectionState | None, instance: str, *, serves: bool
) -> Stance:
    """The stance after any of these has changed; `serves` is whether it takes requests now."""
    agreed = before.own if before.accord and serves else before.agreed
    compared = own.model_set, own.declared, state, instance
    wrong = own.refuse and candidacy.must_refuse(*compared)
    return Stance(
        own=own,
        differs=candidacy.model_set_difference(*compared),
        refuses=wrong and not (own == agreed or _was_right(own, state)),
        accord=bool(own.model_set) and not wrong and _is_led(state, instance),
        agreed=agreed,
    )


def _is_led(state: ElectionState | None, instance: str) -> bool:
    """Whether there is a primary whose set is known, or it is the instance itself."""
    if state is None or state.lock.instance is None:
        return False
    claim = state.lock.last
    return state.lock.instance == instance or bool(claim and claim.model_set)


def _was_right(own: OwnModelSet, state: ElectionState | None) -> bool:
    """Whether the primary was elected with this instance's set, and has another one since.

    So a sidecar that was started anew does not hold against itself what the primary has changed.
    """
    return state is not None and own.model_set == state.lock.elected_with
