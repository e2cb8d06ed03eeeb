"""The simulated world: time, the network, the agents, and the instances."""

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sidecar.consul.api import ServiceEntry
from sidecar.election.actions import NameCandidate
from sidecar.election.decision import DecisionRules, ElectionView, Failback
from sidecar.election.keys import lock
from sidecar.registry.registration import InstanceMeta, registration
from sidecar.runtime.errors import Unavailable
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State
from sidecar.xds.catalog import retention
from sidecar.xds.catalog.retention import Leadership
from tests.support.election_simulator.laws import Laws, require
from tests.support.election_simulator.member import TIMEOUT, Member
from tests.support.election_simulator.store import Request, Store, outcome

LATENCY = 0.002
_RETRY = 0.5  # of a watch
_POLL, _HEARTBEAT = 1.0, 3.0
_STATUSES = {State.PASSING: "passing", State.WARNING: "warning"}
ALIVE = "gRPC check 127.0.0.1:2/live: success"


class Fate:
    """The fate of a request. LATE: it arrives long after its sender has timed out."""

    LOST, ANSWER_LOST, FAILED, DONE_AND_FAILED, LATE = range(5)


@dataclass
class Plane:
    """A control plane's watch of the lock; `lag` is the age of its reads."""

    lag: float = 0.0
    known: Leadership = field(default_factory=Leadership)

    def see(self, seen: lock.ElectionLock, newest: lock.ElectionLock | None, laws: Laws) -> None:
        """A read, and what a consistent read would return."""
        believed = retention.retain_leader(self.known, seen)
        if retention.is_regression(self.known, seen) and newest is not None:
            believed = retention.retain_leader(self.known, newest, verified=True)
        before, self.known = self.known, believed
        leader = believed.leader
        if leader is None or believed == before:
            return
        tenures = [n for n, grant in enumerate(laws.grants) if grant.instance == leader.instance]
        require(tenures, f"the control plane believes {leader}, who never held the role")
        epochs = before.newest_epoch, believed.newest_epoch
        require(epochs[0] <= epochs[1], f"the control plane went back from epoch {epochs}")


class World:
    """All events, in the order of the true time."""

    def __init__(self, count: int, lock_delay: float, failback: Failback, boots: int) -> None:
        self.now = 0.0
        self.trace: list[str] | None = None
        self._queue: list[tuple[float, int, Callable[[], None], Member | None, int]] = []
        self._numbers = itertools.count(1)
        self.store = Store(lambda: self.now, lambda when, what: self.at(when, what))
        self.laws = Laws(self.store)
        self.store.changed = self._changed
        self.store.expiring = self.laws.expiring
        rules = DecisionRules(failback=failback, failback_settle=6.0, settle=2.0)
        self.members = [
            Member(name, self, rules, lock_delay, boot=1000.0 * ((boots >> n) % 7 + 1))
            for n, name in enumerate("abcde"[:count])
        ]
        self.laws.members = self.members
        self.planes = [Plane(), Plane()]
        # Each agent's state, which may not be synced to the servers.
        self.agents: dict[str, dict[str, tuple[str, str]]] = {}

    # --- time -------------------------------------------------------------------------------

    def at(self, when: float, what: Callable[[], None], member: Member | None = None) -> None:
        gen = member.gen if member else 0
        heapq.heappush(self._queue, (when, next(self._numbers), what, member, gen))

    def run(self, until: float) -> None:
        """Run all events that are due by then."""
        while self._queue and self._queue[0][0] <= until:
            when, _, what, member, gen = heapq.heappop(self._queue)
            self.now = max(self.now, when)
            if member is not None and gen != member.gen:
                continue
            if member is not None and member.faults.frozen_until > self.now:
                self._put_off(member, what)
                continue
            what()
        self.now = max(self.now, until)

    def _put_off(self, member: Member, what: Callable[[], None]) -> None:
        """Defer an event of a frozen member until it continues."""
        if not member.faults.backlog:
            self.at(member.faults.frozen_until, lambda: self.thaw(member))
        member.faults.backlog.append((member.gen, what))

    def thaw(self, member: Member) -> None:
        faults = member.faults
        if faults.frozen_until > self.now:
            self.at(faults.frozen_until, lambda: self.thaw(member))
            return
        waiting, faults.backlog = faults.backlog, []
        for gen, what in reversed(waiting) if faults.backwards else waiting:
            if gen != member.gen:
                continue
            if faults.frozen_until > self.now:  # it is frozen again
                self._put_off(member, what)
            else:
                what()

    def log(self, text: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.now:9.3f} {text}")

    # --- the network --------------------------------------------------------------------------

    def send(
        self,
        member: Member,
        request: Request,
        answered: Callable[[Any], None],
        written: float,
    ) -> None:
        fate, member.faults.fate = member.faults.fate, None
        if self.trace is not None:
            self.log(f"{member.name} sends {member.acting} {fate or ''}")

        def back(answer: object) -> None:
            self.at(self.now + LATENCY, lambda: answered(answer), member)

        def give_up(when: float) -> None:
            self.at(when, lambda: answered(Unavailable("no answer in time")), member)

        if fate:
            give_up(self.now + TIMEOUT)
        pause = fate[1] if fate and fate[0] == Fate.LATE else 0.0
        how = fate[0] if fate else None
        self.at(
            max(self.now, written) + LATENCY + pause,
            lambda: self._arrive(member, request, how, back, give_up),
        )

    def _arrive(
        self,
        member: Member,
        request: Request,
        fate: int | None,
        back: Callable[[object], None],
        give_up: Callable[[float], None],
    ) -> None:
        faults = member.faults
        if faults.cut and faults.silent:
            give_up(self.now + TIMEOUT)
        elif not self.reaches(member):
            back(Unavailable("no route to the servers"))
        elif fate in (None, Fate.LATE):
            back(self._serve(member, request))
        else:
            if fate in (Fate.ANSWER_LOST, Fate.DONE_AND_FAILED):
                self._serve(member, request)
            if fate in (Fate.FAILED, Fate.DONE_AND_FAILED):
                back(Unavailable("failed, done or not"))

    def _serve(self, member: Member, request: Request) -> object:
        before = self.store.state.lock
        answer = outcome(lambda: self.store.answer(request.effect))
        if self.trace is not None:
            shown = "the catalog" if isinstance(answer, tuple) else answer
            self.log(f"        {member.name} is answered {shown}")
        self.laws.served(member, request, before, answer)
        return answer

    def learnt(self, member: Member) -> None:
        if self.trace is not None:
            self.log(f"        {member.name}: {member.role} {member.lease}")
        if member.lease.epoch:
            self.laws.learnt(member)

    # --- reads -------------------------------------------------------------------------------

    def directed(self, member: Member, view: ElectionView, action: NameCandidate) -> None:
        self.laws.directed(member, view, action)

    def catalog(self, member: Member) -> tuple[ServiceEntry, ...]:
        return self.store.catalog()

    def _changed(self) -> None:
        self.laws.noted()
        if self.trace is not None:
            self.log(f"        {self.store.state}")
        number = len(self.store.states) - 1
        for member in self.members:
            self._show(member, number, LATENCY + member.faults.lag)
        for plane in self.planes:
            self._show_plane(plane, number)

    def _show(self, member: Member, number: int, pause: float) -> None:
        def show() -> None:
            if self.reaches(member) and number > member.seen and self.store.leader:
                member.see(number, self.store.states[number])

        self.at(self.now + pause, show, member)

    def _show_plane(self, plane: Plane, number: int) -> None:
        """Reads of a control plane may be reordered, because servers lag."""
        seen, leader = self.store.states[number].lock, self.store

        def show() -> None:
            plane.see(seen, leader.state.lock if leader.leader else None, self.laws)

        self.at(self.now + LATENCY + (plane.lag if number % 2 else 0.0), show)

    def refresh(self, member: Member, pause: float = _RETRY) -> None:
        """Retry its failed watch."""
        self.at(self.now + pause, lambda: self._reread(member), member)

    def _reread(self, member: Member) -> None:
        newest = len(self.store.states) - 1
        if self.reaches(member) and newest > member.seen and self.store.leader:
            member.see(newest, self.store.state)

    @staticmethod
    def reaches(member: Member) -> bool:
        return not (member.faults.cut or member.faults.agent_down)

    # --- agents -----------------------------------------------------------------------------

    def register(self, member: Member) -> None:
        truth = member.truth
        if not self.reaches(member):
            return
        standing = InstanceMeta(
            model_set=truth.model_set, priority=truth.priority, settled_at=member.settled_at
        )
        body = registration(member.instance, standing)
        body["Tags"] = [*body["Tags"], *truth.tags]
        self.store.do(lambda store: store.model.register(body))
        self.agents.setdefault(member.name, {})

    def check(self, member: Member, name: str, status: str, output: str) -> None:
        """Set the status of an agent's check."""
        said = f"{member.name}:{name}", status, output
        self.agents.setdefault(member.name, {})[said[0]] = status, output
        self._apply(member, *said)

    def sync(self, member: Member) -> None:
        """Sync the agent's state to the servers, if they are connected."""
        for name, (status, output) in self.agents.get(member.name, {}).items():
            self._apply(member, name, status, output)

    def _apply(self, member: Member, name: str, status: str, output: str) -> None:
        model = self.store.model
        if not self.reaches(member) or member.name not in model.services:
            return
        known = next(check for check in model.services[member.name].checks if check.id == name)
        if (known.status, known.output) != (status, output):
            self.store.do(lambda store: store.model.set_check(name, status, output, self.now))

    def say(self, member: Member, verdict: Verdict) -> bool:
        if member.faults.agent_down:
            return False
        if member.name not in self.store.model.services:
            self.register(member)
        self.check(member, "verdict", _STATUSES.get(verdict.state, "critical"), verdict.summary)
        return True

    def poll(self, member: Member) -> None:
        """Run the agent's own check of the sidecar."""
        if member.faults.agent_down:
            return
        if not member.alive:
            self.check(member, "sidecar", "critical", "connection refused")
        elif member.faults.frozen_until > self.now:
            self.check(member, "sidecar", "critical", "deadline exceeded")
            self.at(member.faults.frozen_until + _POLL, lambda: self.poll(member))
        else:
            self.check(member, "sidecar", "passing", ALIVE)

    def lapse(self, member: Member) -> None:
        """Set the verdict's check to critical, because its TTL has passed."""
        if not member.alive or member.faults.frozen_until > self.now:
            self.check(member, "verdict", "critical", "TTL expired (last output: ...)")
            self.at(member.faults.frozen_until + _HEARTBEAT / 2, member.push, member)

    def restart_agent(self, member: Member, pause: float, older: int) -> None:
        member.faults.agent_down = True
        self.at(self.now + pause, lambda: self.agent_back(member, older))

    def agent_back(self, member: Member, older: int = 0) -> None:
        """A restarted agent's checks are critical until they have run."""
        if not member.faults.agent_down:
            return
        member.faults.agent_down = False
        said = self.agents.get(member.name, {})
        said.update({name: ("critical", output) for name, (_, output) in said.items()})
        self.sync(member)
        self.at(self.now + _POLL, lambda: self.poll(member))
        self.at(self.now + _HEARTBEAT / 2, member.push, member)
        # Its first answer may be older than its last one before the restart.
        self._older(member, older)

    def _older(self, member: Member, older: int) -> None:
        number = max(0, len(self.store.states) - 1 - older)

        def show() -> None:
            if self.reaches(member):
                member.see(number, self.store.states[number])
            self.refresh(member, 0.1)

        self.at(self.now + _RETRY, show, member)

    def start(self, member: Member, boot: float) -> None:
        """Start a sidecar's process."""
        member.start(boot)
        self.at(self.now + _POLL, lambda: self.poll(member))
        self.at(self.now + 0.1, member.push, member)
        self.refresh(member, 0.1)

    def crash(self, member: Member) -> None:
        member.crash()
        self.at(self.now + _POLL, lambda: self.poll(member))
        self.at(self.now + 10.0, lambda: self.lapse(member))

    def leave(self, member: Member) -> None:
        """Deregister a sidecar that has stopped gracefully."""
        member.crash()
        self.agents.pop(member.name, None)
        member.truth.maintained = None
        self.store.do(lambda store: store.model.deregister(member.name, self.now))

    def rest(self, members: Sequence[Member]) -> int:
        return sum(member.requests for member in members)
