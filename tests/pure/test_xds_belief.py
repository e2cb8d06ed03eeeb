from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.election.decision import Lock
from sidecar.xds.belief import (
    Leadership,
    Memory,
    believe_leader,
    is_regression,
    next_deadline,
    retain,
    wants_verification,
)
from sidecar.xds.catalog import Health, Instance, Leader

HOLD = 60.0
A = Instance("a", "10.0.0.1", 8001, 9001)
B = Instance("b", "10.0.0.2", 8001, 9001)
LED = Leadership(Leader("a", 7), 7)


def held(instance: str, epoch: int) -> Lock:
    return Lock("session", instance, epoch)


@pytest.mark.parametrize(
    ("lock", "verified", "believed"),
    [
        (held("b", 8), False, Leadership(Leader("b", 8), 8)),
        (held("a", 7), False, LED),
        (Lock(None, None, 9), False, LED),  # free: the last one stays preferred
        (Lock("session", None, 9), False, LED),  # held by a session that wrote no epoch
        (Lock(), True, LED),  # the keys are gone
        (held("b", 3), False, LED),  # an old answer, or a lost history
        (held("b", 3), True, Leadership(Leader("b", 3), 3)),  # a lost history
    ],
)
def test_which_leader_is_believed(lock: Lock, verified: bool, believed: Leadership) -> None:
    assert believe_leader(LED, lock, verified=verified) == believed


LOCKS = st.builds(
    Lock,
    session=st.sampled_from([None, "s", "t"]),
    instance=st.sampled_from([None, "a", "b"]),
    epoch=st.integers(0, 9),
)


@given(st.lists(LOCKS))
def test_without_verification_the_epoch_never_goes_back(locks: list[Lock]) -> None:
    belief, epochs = Leadership(), [0]
    for lock in locks:
        belief = believe_leader(belief, lock)
        epochs.append(belief.newest_epoch)
        assert belief.leader is None or belief.leader.epoch == belief.newest_epoch
    assert epochs == sorted(epochs)


@given(st.lists(LOCKS))
def test_a_verified_lock_is_always_believed(locks: list[Lock]) -> None:
    belief = Leadership()
    for lock in locks:
        verified = is_regression(belief, lock)
        belief = believe_leader(belief, lock, verified=verified)
        if lock.instance is not None:
            assert belief.leader == Leader(lock.instance, lock.epoch)


def remember(*instances: Instance, now: float = 0.0) -> Memory:
    return retain(Memory(since=now), instances, now, HOLD)


def test_one_that_vanished_without_a_word_is_held_for_a_while() -> None:
    memory = retain(remember(A, B), (A,), 10.0, HOLD)
    assert memory.instances == (A, B)
    assert next_deadline(memory, HOLD) == 70.0
    assert retain(memory, (A,), 69.9, HOLD).instances == (A, B)
    assert retain(memory, (A,), 70.0, HOLD).instances == (A,)


def test_one_that_comes_back_starts_anew() -> None:
    memory = retain(remember(A, B), (A,), 10.0, HOLD)
    memory = retain(memory, (A, B), 60.0, HOLD)
    assert next_deadline(memory, HOLD) is None
    assert retain(memory, (A,), 90.0, HOLD).instances == (A, B)


@pytest.mark.parametrize("goodbye", [{"draining": True}, {"health": Health.CRITICAL}])
def test_one_that_said_goodbye_is_believed_at_once(goodbye: dict[str, object]) -> None:
    leaving = replace(B, **goodbye)  # type: ignore[arg-type]
    memory = retain(remember(A, B), (A, leaving), 1.0, HOLD)
    assert memory.instances == (A, leaving)
    assert retain(memory, (A,), 2.0, HOLD).instances == (A,)


def test_what_is_seen_is_believed_at_once() -> None:
    sick = replace(A, health=Health.CRITICAL)
    assert retain(remember(A, B), (sick, B), 1.0, HOLD).instances == (sick, B)


def test_one_that_was_renamed_is_not_held_beside_its_new_name() -> None:
    renamed = replace(A, id="c")
    assert retain(remember(A, B), (B, renamed), 1.0, HOLD).instances == (B, renamed)


def test_an_empty_catalog_has_to_prove_itself() -> None:
    memory = retain(remember(A, B), (), 1.0, HOLD)
    assert not wants_verification(memory, (), 60.9, HOLD)
    assert wants_verification(memory, (), 61.0, HOLD)
    unproven = retain(memory, (), 1000.0, HOLD)
    assert unproven.instances == (A, B)
    assert retain(unproven, (), 1001.0, HOLD, verified_empty=True).instances == ()


def test_a_view_that_went_blank_ends_no_hold_that_began_before() -> None:
    memory = retain(remember(A, B), (A,), 1.0, HOLD)
    memory = retain(memory, (), 2.0, HOLD)  # a token was revoked: B may be back, unseen
    assert wants_verification(memory, (), 61.0, HOLD)
    assert retain(memory, (), 61.0, HOLD).instances == (A, B)
    assert retain(memory, (), 61.0, HOLD, verified_empty=True).instances == (A,)


def test_proof_does_not_shorten_the_hold() -> None:
    assert retain(remember(A), (), 10.0, HOLD, verified_empty=True).instances == (A,)


def test_a_service_is_settled_by_its_first_usable_instance() -> None:
    sick = replace(A, health=Health.CRITICAL)
    memory = retain(Memory(since=0.0), (sick,), 0.0, HOLD)
    assert not memory.settled
    assert retain(memory, (sick, B), 1.0, HOLD).settled
    assert retain(memory, (sick,), 60.0, HOLD).settled


def test_a_service_without_instances_is_settled_by_proof_alone() -> None:
    memory = retain(Memory(since=0.0), (), 0.0, HOLD)
    assert next_deadline(memory, HOLD) == 60.0
    memory = retain(memory, (), 1000.0, HOLD)
    assert not memory.settled
    assert wants_verification(memory, (), 1000.0, HOLD)
    assert retain(memory, (), 1000.0, HOLD, verified_empty=True).settled


INSTANCES = st.lists(
    st.builds(
        lambda number, health, draining: Instance(
            f"i{number}", "10.0.0.1", 8000 + number, 9000 + number, health, draining
        ),
        st.integers(1, 4),
        st.sampled_from(Health),
        st.booleans(),
    ),
    unique_by=lambda instance: instance.id,
).map(tuple)


@given(st.lists(st.tuples(INSTANCES, st.floats(0, 50))))
def test_usable_instances_are_never_lost_without_evidence(
    steps: list[tuple[tuple[Instance, ...], float]],
) -> None:
    now, memory = 0.0, Memory(since=0.0)
    for observed, pause in steps:
        now += pause
        before, memory = memory, retain(memory, observed, now, HOLD)
        assert set(observed) <= set(memory.instances)
        assert memory.settled or not before.settled
        gone = {i.id for i in before.instances if i.usable} - {i.id for i in memory.instances}
        assert not gone or observed
        for name in gone:
            assert now - before.missing[name] >= HOLD
        if not observed and any(i.usable for i in before.instances):
            assert any(i.usable for i in memory.instances)
        assert all(since <= now for since in memory.missing.values())
