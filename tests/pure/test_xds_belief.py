from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.election.lock import Lock
from sidecar.xds.belief import (
    Leadership,
    Memory,
    View,
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
    return retain(Memory(since=now), View(instances), now, HOLD)


def test_one_that_vanished_without_a_word_is_held_for_a_while() -> None:
    memory = retain(remember(A, B), View((A,)), 10.0, HOLD)
    assert memory.instances == (A, B)
    assert next_deadline(memory, HOLD) == 70.0
    assert retain(memory, View((A,)), 69.9, HOLD).instances == (A, B)
    assert retain(memory, View((A,)), 70.0, HOLD).instances == (A,)


def test_one_that_comes_back_starts_anew() -> None:
    memory = retain(remember(A, B), View((A,)), 10.0, HOLD)
    memory = retain(memory, View((A, B)), 60.0, HOLD)
    assert next_deadline(memory, HOLD) is None
    assert retain(memory, View((A,)), 90.0, HOLD).instances == (A, B)


def test_one_that_said_goodbye_is_believed_at_once() -> None:
    leaving = replace(B, draining=True)
    memory = retain(remember(A, B), View((A, leaving)), 1.0, HOLD)
    assert memory.instances == (A, leaving)
    assert retain(memory, View((A,)), 2.0, HOLD).instances == (A,)


def test_one_that_vanished_while_critical_is_held_too() -> None:
    # Its agent was restarted: it registers again, and Envoy must not forget its work meanwhile.
    sick = replace(B, health=Health.CRITICAL)
    memory = retain(remember(A, sick), View((A,)), 1.0, HOLD)
    assert memory.instances == (A, sick)


def test_what_is_seen_is_believed_at_once() -> None:
    sick = replace(A, health=Health.CRITICAL)
    assert retain(remember(A, B), View((sick, B)), 1.0, HOLD).instances == (sick, B)


def test_one_that_was_renamed_is_not_held_beside_its_new_name() -> None:
    renamed = replace(A, id="c")
    assert retain(remember(A, B), View((B, renamed)), 1.0, HOLD).instances == (B, renamed)


def test_an_empty_catalog_has_to_prove_itself() -> None:
    memory = retain(remember(A, B), View(), 1.0, HOLD)
    assert not wants_verification(memory, View(), 60.9, HOLD)
    assert wants_verification(memory, View(), 61.0, HOLD)
    unproven = retain(memory, View(), 1000.0, HOLD)
    assert unproven.instances == (A, B)
    assert retain(unproven, View(verified=True), 1001.0, HOLD).instances == ()


def test_a_view_that_went_blank_ends_no_hold_that_began_before() -> None:
    memory = retain(remember(A, B), View((A,)), 1.0, HOLD)
    memory = retain(memory, View(), 2.0, HOLD)  # a token was revoked: B may be back, unseen
    assert wants_verification(memory, View(), 61.0, HOLD)
    assert retain(memory, View(), 61.0, HOLD).instances == (A, B)
    assert retain(memory, View(verified=True), 61.0, HOLD).instances == (A,)


def test_the_last_good_instance_does_not_go_unproven() -> None:
    # A vanished while it was well, B is seen and cannot serve.
    sick = replace(B, health=Health.CRITICAL)
    memory = retain(remember(A, B), View((sick,)), 1.0, HOLD)
    assert retain(memory, View((sick,)), 61.0, HOLD).instances == (A, sick)
    assert wants_verification(memory, View((sick,)), 61.0, HOLD)
    assert not wants_verification(memory, View((sick,), verified=True), 61.0, HOLD)
    assert retain(memory, View((sick,), verified=True), 61.0, HOLD).instances == (sick,)


def test_an_entry_of_which_nothing_is_known_is_not_absent() -> None:
    # Every verdict has lapsed, as the agent had paused: there is nothing to be proven.
    memory = retain(remember(A, B), View(complete=False), 1.0, HOLD)
    assert not wants_verification(memory, View(complete=False), 1000.0, HOLD)
    assert retain(memory, View(complete=False), 1000.0, HOLD).instances == (A, B)


def test_a_fresh_plane_waits_for_instances_of_which_nothing_is_known() -> None:
    partial = View((A,), complete=False)
    memory = retain(Memory(since=0.0), partial, 0.0, HOLD)
    assert not memory.settled
    assert next_deadline(memory, HOLD) == 60.0
    assert retain(memory, View((A, B)), 1.0, HOLD).settled
    assert retain(memory, partial, 60.0, HOLD).settled


def test_proof_does_not_shorten_the_hold() -> None:
    assert retain(remember(A), View(verified=True), 10.0, HOLD).instances == (A,)


def test_a_service_is_settled_by_its_first_usable_instance() -> None:
    sick = replace(A, health=Health.CRITICAL)
    memory = retain(Memory(since=0.0), View((sick,)), 0.0, HOLD)
    assert not memory.settled
    assert retain(memory, View((sick, B)), 1.0, HOLD).settled
    assert retain(memory, View((sick,), verified=True), 60.0, HOLD).settled


def test_a_service_without_instances_is_settled_by_proof_alone() -> None:
    memory = retain(Memory(since=0.0), View(), 0.0, HOLD)
    assert next_deadline(memory, HOLD) == 60.0
    memory = retain(memory, View(), 1000.0, HOLD)
    assert not memory.settled
    assert wants_verification(memory, View(), 1000.0, HOLD)
    assert retain(memory, View(verified=True), 1000.0, HOLD).settled


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


VIEWS = st.builds(View, INSTANCES, st.booleans(), st.booleans())


@given(st.lists(st.tuples(VIEWS, st.floats(0, 50))))
def test_instances_are_never_lost_without_evidence(steps: list[tuple[View, float]]) -> None:
    now, memory = 0.0, Memory(since=0.0)
    for view, pause in steps:
        now += pause
        before, memory = memory, retain(memory, view, now, HOLD)
        assert set(view.instances) <= set(memory.instances)
        assert memory.settled or not before.settled
        silent = {i.id for i in before.instances if not i.draining}
        gone = silent - {i.id for i in memory.instances}
        assert not gone or view.verified or view.shows_usable
        for name in gone:
            assert now >= before.missing[name] + HOLD
        if any(i.usable for i in before.instances) and not view.verified and not view.instances:
            assert any(i.usable for i in memory.instances)
        assert all(since <= now for since in memory.missing.values())
