"""Whether an instance refuses requests because its model set is not the primary's. Pure.

No instance leaves service because of another one: if the primary changes its model set, those that
served alongside it continue, or none could take over when it fails. Only an instance that arrives
with another set refuses requests.
"""

from dataclasses import dataclass

from sidecar.election import own_candidacy
from sidecar.election.keys.orders import ElectionState


@dataclass(frozen=True, slots=True)
class OwnModelSet:
    """The instance's side of a comparison: the set it serves, the declared set, and the policy."""

    model_set: str = ""
    declared: str = ""
    refuse: bool = True


@dataclass(frozen=True, slots=True)
class Stance:
    """The result of a comparison with the primary.

    `differs` says how the model sets differ, or "", and `refuses` whether the instance therefore
    takes no requests. It is in `accord` with a live primary that gives no reason to refuse;
    `agreed` is its own side when it last served in accord.
    """

    own: OwnModelSet = OwnModelSet()
    differs: str = ""
    refuses: bool = False
    accord: bool = False
    agreed: OwnModelSet | None = None


def compare(
    before: Stance, own: OwnModelSet, state: ElectionState | None, instance: str, *, serves: bool
) -> Stance:
    """The stance after a change of any argument; `serves` is whether it takes requests now."""
    agreed = before.own if before.accord and serves else before.agreed
    compared = own.model_set, own.declared, state, instance
    wrong = own.refuse and own_candidacy.must_refuse(*compared)
    return Stance(
        own=own,
        differs=own_candidacy.model_set_difference(*compared),
        refuses=wrong and not (own == agreed or _was_right(own, state)),
        accord=bool(own.model_set) and not wrong and _is_led(state, instance),
        agreed=agreed,
    )


def _is_led(state: ElectionState | None, instance: str) -> bool:
    """Whether there is a primary whose set is known, or this instance is the primary."""
    if state is None or state.lock.instance is None:
        return False
    claim = state.lock.last
    return state.lock.instance == instance or bool(claim and claim.model_set)


def _was_right(own: OwnModelSet, state: ElectionState | None) -> bool:
    """Whether the primary was elected with this instance's set.

    So a sidecar that restarts does not refuse because of a change that the primary made.
    """
    return state is not None and own.model_set == state.lock.elected_with
