"""The election's decision, by tables and by a state machine of several instances on one Consul."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidecar.consul_api import KVEntry
from sidecar.election import decision, lock
from sidecar.election.decision import Action, Intent, Lease, Lock, Role, View, decide, role, wake_at
from sidecar.errors import SessionLost, SidecarError
from sidecar.registry.record import Instance, Standing, registration
from tests.consul_model import ConsulModel

TTL = 15.0
FREE = Lock(index=9)
OURS = Lock("s", "a", 9, 9)
THEIRS = Lock("other", "b", 9, 9)
OPEN = Lease(TTL, "s", confirmed=0.0)
HOLDING = Lease(TTL, "s", confirmed=0.0, epoch=9)


@pytest.mark.parametrize(
    ("view", "lease", "now", "action"),
    [
        (View(FREE, Intent.SEEK), Lease(TTL), 0, Action.OPEN_SESSION),
        (View(None, Intent.SEEK), OPEN, 1, None),
        (View(FREE, Intent.SEEK), OPEN, 1, Action.ACQUIRE),
        (View(THEIRS, Intent.SEEK), OPEN, 1, None),
        (View(THEIRS, Intent.SEEK), OPEN, 5, Action.RENEW_SESSION),
        (View(OURS, Intent.SEEK), HOLDING, 1, None),
        (View(OURS, Intent.SEEK), HOLDING, 5, Action.RENEW_SESSION),
        (View(OURS, Intent.SEEK), HOLDING, 100, Action.RENEW_SESSION),
        (View(OURS, Intent.KEEP), HOLDING, 1, None),
        (View(OURS, Intent.KEEP), HOLDING, 5, Action.RENEW_SESSION),
        (View(FREE, Intent.KEEP), OPEN, 1, Action.CLOSE_SESSION),
        (View(FREE, Intent.KEEP), Lease(TTL), 1, None),
        (View(OURS, Intent.YIELD), HOLDING, 1, Action.RELEASE),
        (View(OURS, Intent.YIELD), OPEN, 1, Action.CLOSE_SESSION),
        (View(FREE, Intent.YIELD), Lease(TTL), 1, None),
    ],
)
def test_decisions(view: View, lease: Lease, now: float, action: Action | None) -> None:
    assert decide(view, lease, now) is action


@pytest.mark.parametrize(
    ("lease", "now", "expected"),
    [
        (OPEN, 0, Role.STANDBY),
        (HOLDING, 0, Role.PRIMARY),
        (HOLDING, TTL - 0.001, Role.PRIMARY),
        (HOLDING, TTL, Role.UNCONFIRMED),
        (decision.renewed(HOLDING, 14.0), TTL, Role.PRIMARY),
    ],
)
def test_the_own_clock_ends_the_claim(lease: Lease, now: float, expected: Role) -> None:
    assert role(lease, now) is expected


def test_a_reading_from_before_the_acquisition_changes_nothing() -> None:
    assert decision.observe(HOLDING, Lock(index=8)) == HOLDING
    assert decision.observe(HOLDING, Lock("other", "b", 12, 12)).epoch == 0
    assert decision.observe(HOLDING, OURS) == HOLDING


@pytest.mark.parametrize(("now", "at"), [(0, 5), (4.9, 5), (5, 15), (15, None)])
def test_it_wakes_for_the_renewal_and_for_the_end(now: float, at: float | None) -> None:
    assert wake_at(HOLDING, now) == at
    assert wake_at(Lease(TTL), now) is None


def entry(key: str, value: bytes, session: str | None = None, index: int = 5) -> KVEntry:
    return KVEntry(key, value, session, index, 0)


HELD = entry(lock.lock_key("t"), b"", "s")
EPOCH = entry(lock.epoch_key("t"), lock.claim("a", "s", ""))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], Lock(None, None, 0, 7)),
        ([HELD, EPOCH], Lock("s", "a", 5, 7)),
        ([entry(lock.lock_key("t"), b""), EPOCH], Lock(None, None, 5, 7)),
        ([entry(lock.lock_key("t"), b"", "s2"), EPOCH], Lock("s2", None, 5, 7)),
        ([HELD, entry(lock.epoch_key("t"), b"[garbage")], Lock("s", None, 5, 7)),
        ([HELD, entry(lock.epoch_key("t"), b"[1]")], Lock("s", None, 5, 7)),
    ],
    ids=["nothing", "held", "free", "another session", "garbage", "no table"],
)
def test_reading_the_lock(entries: list[KVEntry], expected: Lock) -> None:
    assert lock.read("t", entries, 7) == expected


class Candidate:
    """One instance: its lease, its clock, what it last saw of the lock."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lease = Lease(TTL)
        self.seen: Lock | None = None
        self.intent = Intent.YIELD


class Elections(RuleBasedStateMachine):
    """Three instances, one Consul that ends sessions as early as it may, and faults between steps.

    An instance can be frozen for any time between its decision and its act, its requests and the
    answers to them can be lost, its reading of the lock can be old, and it can be restarted.
    """

    @initialize()
    def start(self) -> None:
        self.now = 100.0
        self.consul = ConsulModel(lapse=1.0)
        self.candidates = {name: Candidate(name) for name in "abc"}
        self.epochs: list[int] = []
        for name in "abc":
            self.consul.register(registration(_instance(name), Standing()))
            for check in (f"{name}:verdict", f"{name}:sidecar"):
                self.consul.set_check(check, "passing", "", self.now)

    names = st.sampled_from("abc")

    @rule(seconds=st.floats(0.0, 20.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.consul.pass_time(self.now)

    @rule(name=names, intent=st.sampled_from(Intent))
    def wish(self, name: str, intent: Intent) -> None:
        self.candidates[name].intent = intent

    @rule(name=names)
    def look(self, name: str) -> None:
        """The watch brings news; until then the instance decides on what it saw before."""
        candidate = self.candidates[name]
        seen = lock.read("t", self.consul.keys.values(), self.consul.index)
        candidate.seen = seen
        candidate.lease = decision.observe(candidate.lease, seen)

    @rule(name=names, frozen=st.floats(0.0, 40.0), answered=st.booleans(), reached=st.booleans())
    def act(self, name: str, frozen: float, answered: bool, reached: bool) -> None:
        candidate = self.candidates[name]
        view = View(candidate.seen, candidate.intent)
        action = decide(view, candidate.lease, self.now)
        if action is None:
            return
        sent = self.now
        self.now += frozen
        self.consul.pass_time(self.now)
        if not reached:
            return
        try:
            lease = self.perform(candidate, action, sent)
        except SessionLost:
            lease = decision.lost(candidate.lease)
        except SidecarError:
            return
        if answered:
            candidate.lease = lease

    @rule(name=names, status=st.sampled_from(["passing", "critical"]))
    def health(self, name: str, status: str) -> None:
        self.consul.set_check(f"{name}:verdict", status, "", self.now)

    @rule(name=names)
    def restart(self, name: str) -> None:
        self.candidates[name] = Candidate(name)

    def perform(self, candidate: Candidate, action: Action, sent: float) -> Lease:
        lease, now, name = candidate.lease, self.now, candidate.name
        session = lease.session or ""
        match action:
            case Action.OPEN_SESSION:
                checks = [f"{name}:verdict", f"{name}:sidecar"]
                return decision.opened(lease, self.consul.open_session(checks, TTL, 0, now), sent)
            case Action.RENEW_SESSION:
                self.consul.renew(session, now)
                return decision.renewed(lease, sent)
            case Action.ACQUIRE:
                keys = lock.lock_key("t"), lock.epoch_key("t")
                claim = lock.claim(name, session, f"{now}")
                epoch = self.consul.acquire(*keys, session, claim, now)
                if epoch is None:
                    return lease
                self.epochs.append(epoch)
                return decision.acquired(lease, epoch)
            case Action.RELEASE:
                self.consul.release(lock.lock_key("t"), session)
                return decision.released(lease)
            case Action.CLOSE_SESSION:
                self.consul.invalidate(session, now)
                return decision.lost(lease)

    @invariant()
    def at_most_one_claims_the_newest_epoch(self) -> None:
        newest = max(self.epochs, default=0)
        claims = [c.lease.epoch for c in self.candidates.values() if self.claims(c)]
        assert claims.count(newest) <= 1
        assert len(set(claims)) == len(claims)

    @invariant()
    def epochs_only_grow(self) -> None:
        assert self.epochs == sorted(self.epochs)

    @invariant()
    def a_claim_outlives_the_lock_only_if_the_session_was_ended_from_outside(self) -> None:
        """By the TTL alone Consul cannot give the lock away before the holder's own clock does."""
        for candidate in self.candidates.values():
            held = self.consul.sessions.get(candidate.lease.session or "")
            if held and self.claims(candidate):
                assert self.now < held.renewed + TTL * self.consul.lapse

    def claims(self, candidate: Candidate) -> bool:
        return role(candidate.lease, self.now) is Role.PRIMARY


def _instance(name: str) -> Instance:
    return Instance(name, "t", "127.0.0.1", 1, 1, (), (), ("m",), "127.0.0.1:2", "live")


Elections.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestElections = Elections.TestCase


def test_without_the_own_clock_the_machine_would_find_two_primaries() -> None:
    """The mutant that the step-down is there for: a holder frozen for longer than its TTL."""
    consul = ConsulModel(lapse=1.0)
    keys = lock.lock_key("t"), lock.epoch_key("t")
    leases = []
    for name, now in (("a", 0.0), ("b", TTL)):
        consul.pass_time(now)
        consul.register(registration(_instance(name), Standing()))
        consul.set_check(f"{name}:verdict", "passing", "", now)
        session = consul.open_session([f"{name}:verdict"], TTL, 0, now)
        epoch = consul.acquire(*keys, session, lock.claim(name, session, ""), now)
        assert epoch
        leases.append(Lease(TTL, session, confirmed=now, epoch=epoch))
    assert [bool(lease.epoch) for lease in leases] == [True, True]
    assert [role(lease, TTL) for lease in leases] == [Role.UNCONFIRMED, Role.PRIMARY]
