"""How a lease changes with actions, reads of the lock, and time alone."""

from dataclasses import replace

import pytest

from sidecar.election import lease
from sidecar.election.keys.lock import ElectionLock
from sidecar.election.lease import Lease, Role

TTL = 15.0
NOW = 1000.0
LEASE = Lease(TTL, "s", confirmed=NOW)
HELD = replace(LEASE, epoch=9)
OURS, THEIRS = ElectionLock("s", "a", 9, 9), ElectionLock("other", "b", 9, 9)


@pytest.mark.parametrize(
    ("held", "now", "expected"),
    [
        (LEASE, NOW, Role.STANDBY),
        (HELD, NOW, Role.PRIMARY),
        (HELD, NOW + TTL - 0.001, Role.PRIMARY),
        (HELD, NOW + TTL, Role.STANDBY),  # it has not even tried to renew: it was suspended
        (lease.attempted(HELD, NOW + 14), NOW + TTL, Role.UNCONFIRMED),
        (lease.renewed(HELD, NOW + 14), NOW + TTL, Role.PRIMARY),
        (lease.released(HELD), NOW, Role.STANDBY),
        (lease.lost(HELD), NOW, Role.STANDBY),
    ],
)
def test_its_own_clock_ends_the_claim(held: Lease, now: float, expected: Role) -> None:
    assert lease.role(held, now) is expected
    left = lease.remaining(held, now)
    assert (left is not None) == (expected is Role.PRIMARY)


def test_an_instance_that_holds_the_lock_and_loads_its_models_is_promoting() -> None:
    assert lease.role(HELD, NOW, promoting=True) is Role.PROMOTING


OPENED = lease.opened(Lease(TTL, spent=True), "s2", NOW)


@pytest.mark.parametrize(
    ("held", "lock", "expected"),
    [
        (HELD, ElectionLock(index=8), HELD),  # from before the acquisition
        (HELD, OURS, HELD),
        (HELD, ElectionLock("other", "b", 12, 12), lease.released(HELD)),
        (HELD, ElectionLock(index=12), lease.released(HELD)),
        (HELD, ElectionLock("s", "a", 13, 13), replace(HELD, epoch=13)),
        (HELD, ElectionLock("s", "b", 13, 13), HELD),  # an operator's edit
        (LEASE, OURS, HELD),  # the answer to the acquisition was lost
        (LEASE, THEIRS, LEASE),
        (LEASE, ElectionLock(index=12), LEASE),
        (lease.released(HELD), OURS, lease.released(HELD)),  # from before the release
        (Lease(TTL), OURS, Lease(TTL)),
        (OPENED, OURS, OPENED),
    ],
)
def test_how_a_read_of_the_lock_changes_the_lease(
    held: Lease, lock: ElectionLock, expected: Lease
) -> None:
    assert lease.observe(held, lock, "a", NOW) == expected


def test_an_instance_that_was_suspended_claims_nothing_from_an_earlier_read() -> None:
    woken = lease.after_stall(HELD, NOW + TTL)
    assert lease.observe(woken, OURS, "a", NOW + TTL).epoch == 0
    renewed = lease.renewed(woken, NOW + TTL)
    assert lease.observe(renewed, OURS, "a", NOW + TTL).epoch == HELD.epoch


def test_an_instance_that_was_suspended_starts_as_a_follower() -> None:
    assert lease.after_stall(HELD, NOW + TTL - 0.001) == HELD
    assert lease.after_stall(HELD, NOW + TTL).epoch == 0
    trying = lease.attempted(HELD, NOW + 14)
    assert lease.after_stall(trying, NOW + TTL) == trying


def test_a_renewal_never_shortens_the_lease() -> None:
    assert lease.renewed(HELD, NOW - 3) == HELD


def test_it_renews_early_enough_for_two_failures() -> None:
    assert HELD.renewal == NOW + TTL / 3
    assert HELD.end == NOW + TTL
