"""Which instance refuses requests because its model set differs from the primary's."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.election.keys.lock import Claim, ElectionLock
from sidecar.election.keys.orders import ElectionState
from sidecar.election.role.model_set import OwnModelSet, Stance, compare

X, Y = "files-000000000000000x", "files-000000000000000y"
ME = "b"


def led(model_set: str, by: str = "a", elected_with: str | None = None) -> ElectionState:
    """A state with a primary, and its present model set."""
    began = model_set if elected_with is None else elected_with
    return ElectionState(ElectionLock("s", by, 5, 5, Claim(by, "s", "then", 100, model_set), began))


NO_PRIMARY = ElectionState(ElectionLock(None, None, 5, 6, Claim("a", "s", "then", 100, X)))


def stances(*steps: tuple[OwnModelSet, ElectionState, bool]) -> list[bool]:
    """Whether it refuses after each step: own model set, state, whether it serves."""
    stance, found = Stance(), []
    for own, state, serves in steps:
        stance = compare(stance, own, state, ME, serves=serves)
        found.append(stance.refuses)
    return found


def test_a_primary_that_changes_its_set_takes_out_no_instance() -> None:
    begun = (OwnModelSet(Y), led(Y), False), (OwnModelSet(Y), led(Y), True)
    changed = OwnModelSet(Y), led(X, elected_with=Y), True
    later = OwnModelSet(Y), led(X, by="c"), True
    assert stances(*begun, changed, later, later) == [False] * 5


def test_an_instance_that_was_unhealthy_when_the_primary_changed_its_set_may_serve_again() -> None:
    begun = (OwnModelSet(Y), led(Y), False), (OwnModelSet(Y), led(Y), True)
    assert (
        stances(*begun, *[(OwnModelSet(Y), led(X), serves) for serves in (False, True)])
        == [False] * 4
    )


def test_an_instance_that_joins_with_another_set_refuses_requests() -> None:
    assert stances((OwnModelSet(Y), led(X), False), (OwnModelSet(Y), led(X), True)) == [True, True]


def test_a_primary_whose_set_is_unknown_matches_no_instance() -> None:
    begun = (OwnModelSet(Y), led(""), False), (OwnModelSet(Y), led(""), True)
    assert stances(*begun, (OwnModelSet(Y), led(X, elected_with=""), True)) == [False, False, True]


def test_an_instance_that_loads_another_set_refuses_requests() -> None:
    begun = (OwnModelSet(X), led(X), False), (OwnModelSet(X), led(X), True)
    assert stances(*begun, (OwnModelSet(Y), led(X), True), (OwnModelSet(X), led(X), True)) == [
        *(False, False),
        *(True, False),
    ]


def test_a_restarted_sidecar_detects_which_set_has_changed() -> None:
    assert stances((OwnModelSet(Y), led(X, elected_with=Y), False)) == [False]
    assert stances((OwnModelSet(Y), led(X, elected_with=X), False)) == [True]


def test_serving_while_there_is_no_primary_does_not_count_as_agreement() -> None:
    begun = (
        (OwnModelSet(Y), led(X), False),
        (OwnModelSet(Y), NO_PRIMARY, False),
        (OwnModelSet(Y), NO_PRIMARY, True),
    )
    assert stances(*begun, (OwnModelSet(Y), led(X, by="c"), True)) == [True, False, False, True]


def test_an_instance_that_has_not_served_with_a_primary_has_agreed_with_none() -> None:
    assert stances((OwnModelSet(Y), led(Y), False), (OwnModelSet(Y), led(X), False)) == [
        False,
        True,
    ]


def test_a_set_that_is_unknown_for_a_while_keeps_an_agreement() -> None:
    begun = (
        (OwnModelSet(Y), led(Y), False),
        (OwnModelSet(Y), led(Y), True),
        (OwnModelSet(), led(Y), True),
    )
    assert stances(*begun, (OwnModelSet(Y), led(X), True)) == [False] * 4


@pytest.mark.parametrize("declared", ["", X])
def test_a_reload_of_the_instances_own_settings_applies(declared: str) -> None:
    own = OwnModelSet(Y, "", False)
    begun = (own, led(Y), False), (own, led(Y), True), (own, led(X), True)
    reloaded = replace(own, refuse=True, declared=declared)
    assert stances(*begun, (reloaded, led(X), True)) == [False, False, False, True]


states = st.one_of(
    st.just(NO_PRIMARY),
    st.builds(
        led,
        st.sampled_from([X, Y]),
        st.sampled_from(["a", ME, "c"]),
        st.sampled_from([X, Y, ""]),
    ),
)
owns = st.builds(
    OwnModelSet, st.sampled_from(["", X, Y]), st.sampled_from(["", X, Y]), st.just(True)
)


@given(owns, st.lists(st.tuples(owns, states, st.booleans()), max_size=8), states, states)
def test_an_instance_that_agrees_keeps_serving_whatever_others_do(
    own: OwnModelSet,
    before: list[tuple[OwnModelSet, ElectionState, bool]],
    now: ElectionState,
    then: ElectionState,
) -> None:
    *_, settled, changed = stances(*before, (own, now, True), (own, now, True), (own, then, True))
    stance = Stance()
    for step in (*before, (own, now, True)):
        stance = compare(stance, *step[:2], ME, serves=step[2])
    if stance.accord:
        assert (settled, changed) == (False, False)
