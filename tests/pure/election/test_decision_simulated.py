"""The election under every fault of the simulator, and under mutants that it must catch.

The same schedules are drawn each time, and others with HYPOTHESIS_ANEW=1: what those find is a
defect all the same. A schedule that fails is printed; `play(bytes.fromhex("…"), trace := [])`
replays it and prints every step.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from sidecar.consul import api
from sidecar.consul.api import Operation, Set, Unlock
from sidecar.election import candidates, execute, lease
from sidecar.election.candidates import Candidate
from sidecar.election.keys import lock
from sidecar.election.keys.lock import ElectionLock
from sidecar.election.keys.orders import ElectionState, Order
from sidecar.election.lease import Lease, Role
from sidecar.xds.catalog import retention
from tests.support.consul_model import ConsulModel
from tests.support.election_simulator import Violation, play
from tests.support.rewording import reword
from tests.support.soak import times

SCHEDULES = times(1_000, soaking=40_000)
# Enough for every mutant below, several times over.
_ENOUGH = 4000


@pytest.mark.timeout(3600)  # a slow, shared machine
@settings(
    max_examples=SCHEDULES,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(st.binary(min_size=23, max_size=44))
def test_no_schedule_breaks_a_law(schedule: bytes) -> None:
    note(f"schedule {schedule.hex()}")
    play(schedule)


def test_a_schedule_is_replayed_identically() -> None:
    schedule = random.Random(1).randbytes(60)
    traces: list[list[str]] = [[], []]
    for trace in traces:
        play(schedule, trace)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 20


def test_reworded_texts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which instance held the role, in which epoch and since when, does not depend on wording."""
    chance = random.Random(7)
    schedules = [chance.randbytes(5 + 3 * chance.randrange(25)) for _ in range(times(100, 4000))]
    usual = [play(schedule).laws.grants for schedule in schedules]
    reword(monkeypatch)
    for schedule, grants in zip(schedules, usual, strict=True):
        assert play(schedule).laws.grants == grants, schedule.hex()


def caught(message: str, first: int = 0) -> int:
    """How many schedules it takes until the expected law is broken.

    `first` is the schedule to start with, for a mutant that is caught rarely.
    """
    for number in range(first, first + _ENOUGH):
        chance = random.Random(number)
        try:
            play(chance.randbytes(5 + 3 * chance.randrange(25)))
        except Violation as violation:
            if message in str(violation):
                return number + 1 - first
    pytest.fail(f"{_ENOUGH} schedules have not shown: {message}")


def test_without_its_own_clock_two_would_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    def role(held: Lease, now: float, **_: bool) -> Role:
        return Role.PRIMARY if held.epoch else Role.STANDBY

    monkeypatch.setattr(lease, "role", role)
    monkeypatch.setattr(lease, "after_stall", lambda held, now: held)
    assert caught("when its session ends by the TTL")


def test_a_claim_that_slightly_outlives_the_ttl_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The claim counts from when the answer arrived instead of when the request was sent."""

    def renewed(held: Lease, sent: float) -> Lease:
        return replace(held, confirmed=held.attempted + 0.01)

    monkeypatch.setattr(lease, "renewed", renewed)
    assert caught("when its session ends by the TTL")


def test_an_instance_that_has_requested_its_release_claims_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offered(held: Lease, why: str, to: str) -> Lease:
        return held

    monkeypatch.setattr(lease, "offered", offered)
    assert caught("when its lock is released")


def test_lock_index_is_not_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    real_read, real_transact = lock.read, ConsulModel.transact

    def read(service: str, entries: Any, index: int) -> ElectionLock:
        found = list(entries)
        key = next((each for each in found if each.key == lock.lock_key(service)), None)
        return replace(real_read(service, found, index), epoch=key.lock_index if key else 0)

    def transact(self: ConsulModel, operations: Any, now: float) -> Mapping[str, int]:
        plain = [
            replace(each, index=None) if isinstance(each, Set) and "epoch" in each.key else each
            for each in operations
        ]
        done = dict(real_transact(self, plain, now))
        for each in operations:
            if isinstance(each, api.Lock):
                done[lock.epoch_key("t")] = self.keys[each.key].lock_index
        return done

    monkeypatch.setattr(lock, "read", read)
    monkeypatch.setattr(ConsulModel, "transact", transact)
    assert caught(" of ('")


def test_a_release_has_to_check_the_locks_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ConsulModel._operate

    def operate(self: ConsulModel, operation: Operation, written: Any, now: float) -> None:
        key = self.keys.get(operation.key)
        if isinstance(operation, Unlock) and key and key.session:
            operation = replace(operation, session=key.session)
        real(self, operation, written, now)

    monkeypatch.setattr(ConsulModel, "_operate", operate)
    assert caught("has freed the lock of")


def without(monkeypatch: pytest.MonkeyPatch, drop: Callable[[Operation], Operation | None]) -> None:
    """Let the servers receive the operations that `drop` leaves."""
    real = ConsulModel.transact

    def transact(self: ConsulModel, operations: Any, now: float) -> Mapping[str, int]:
        left = [each for each in map(drop, operations) if each is not None]
        return real(self, left, now)

    monkeypatch.setattr(ConsulModel, "transact", transact)


def test_an_acquisition_has_to_include_the_last_tenure(monkeypatch: pytest.MonkeyPatch) -> None:
    def drop(operation: Operation) -> Operation:
        if isinstance(operation, Set) and operation.key == lock.epoch_key("t"):
            return replace(operation, index=None)
        return operation

    without(monkeypatch, drop)
    assert caught("came after")


def test_an_instance_that_takes_the_lock_has_to_be_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def objections(candidate: Candidate, reference: str) -> tuple[str, ...]:
        return ()

    monkeypatch.setattr(candidates, "objections", objections)
    assert caught("was not fit")


def test_a_settled_instance_has_to_be_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    def preference(field: Any, reference: str, wall: float) -> tuple[Candidate, ...]:
        return candidates.ranking(field, reference)

    monkeypatch.setattr(candidates, "preference", preference)
    assert caught("was chosen beside", 2200)


def test_a_pause_has_to_be_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ElectionState, "paused", lambda self, wall: False)
    assert caught("while automation was paused")


def test_a_control_plane_must_not_accept_an_older_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "is_regression", lambda previous, seen: False)
    assert caught("the control plane went back")


def test_a_half_done_order_has_to_be_completed_on_every_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def due(self: ElectionState, wall: float) -> Order | None:
        return self.order if self.order and self.order.due(wall) else None

    monkeypatch.setattr(ElectionState, "due", due)
    assert caught("the lock was released twice", 7500)


def test_a_release_names_its_own_tenure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one in the state as last read, which may be the predecessor's."""
    real = execute._release

    async def release(action: Any, view: Any, session: str, context: Any) -> None:
        last = view.state.lock.last if view.state else None
        claim = replace(last, session=session) if last else None
        state = replace(view.state, lock=replace(view.state.lock, last=claim))
        await real(action, replace(view, state=state), session, context)

    monkeypatch.setattr(execute, "_release", release)
    assert caught("came after", 3000)
