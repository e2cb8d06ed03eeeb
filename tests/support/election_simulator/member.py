"""A simulated instance: the election's loops on a clock that the schedule can stop."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from sidecar.consul.api import ConsulApi
from sidecar.election import actions, decision, execute, lease, own_candidacy
from sidecar.election.actions import Action, Wait
from sidecar.election.candidates import Candidate, Field
from sidecar.election.decision import DecisionRules, ElectionView, Intent
from sidecar.election.execute import Done, ElectionContext
from sidecar.election.keys.orders import HAND_OVER, ElectionState, Kind
from sidecar.election.lease import Lease, Role
from sidecar.election.own_candidacy import Fit, InstanceFacts, Settle
from sidecar.registry.registration import InstanceInfo
from sidecar.runtime.errors import SessionLost, SidecarError, Unavailable
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State
from tests.support.election_simulator.store import SERVICE, Request, SuspendingConsul

TTL = 10.0
TIMEOUT = 5.0  # of a request, as in the Consul client
EPOCH = 1_700_000_000.0
CLAIMS = (Role.PRIMARY, Role.PROMOTING)
VERDICTS = {
    State.PASSING: Verdict(State.PASSING, Reason.OK),
    State.WARNING: Verdict(State.WARNING, Reason.OK, "late"),
    State.CRITICAL: Verdict(State.CRITICAL, Reason.OK, "ill"),
}
# As in the loops: between attempts of the same action, and between reads of an order.
_FIRST, _MOST, _RENEWALS, _PROOFS = 0.2, 8.0, 1.0, 1.0


class Surroundings(Protocol):
    """The world's interface for an instance."""

    now: float

    def at(self, when: float, what: Callable[[], None], member: "Member | None" = None) -> None:
        """Schedule an event, which is skipped if the member is frozen or crashed by then."""

    def send(
        self,
        member: "Member",
        request: Request,
        answered: Callable[[Any], None],
        written: float,
    ) -> None:
        """Deliver a request to Consul, and its answer or error, if the schedule allows it."""

    def say(self, member: "Member", verdict: Verdict) -> bool:
        """Push a verdict to the member's agent; returns whether the agent accepted it."""

    def learnt(self, member: "Member") -> None:
        """A member's lease has changed."""

    def register(self, member: "Member") -> None:
        """Register the member's current entry with the agent, if it is reachable."""

    def directed(self, member: "Member", view: ElectionView, action: actions.NameCandidate) -> None:
        """A member names the candidate of an order that names none."""

    def catalog(self, member: "Member") -> Any:
        """The catalog that the member reads."""


@dataclass
class Truth:
    """The true state of an instance, whether or not it has noticed and reported it."""

    state: State = State.PASSING
    maintained: str | None = None
    tags: tuple[str, ...] = ()
    priority: int = 100
    model_set: str = "one"
    asked: str = ""  # the result of the canary that proves an order's candidate
    since: float = -1000.0  # when it was configured


@dataclass
class Faults:
    """The faults that the schedule has set for a member."""

    frozen_until: float = 0.0
    backlog: list[tuple[int, Callable[[], None]]] = field(default_factory=list)
    backwards: bool = False  # whether events during a freeze are processed in reverse
    cut: bool = False
    silent: bool = False  # whether a disconnected member receives nothing at all
    agent_down: bool = False
    lag: float = 0.0
    skew: float = 0.0
    trap: tuple[int, float] | None = None  # freezes at a step of the next action
    fate: tuple[int, float] | None = None  # of the next request


@dataclass
class Member:
    """An instance and its sidecar. `gen` numbers its processes, `boot` its monotonic clock."""

    name: str
    world: Surroundings
    rules: DecisionRules
    lock_delay: float
    boot: float = 0.0
    truth: Truth = field(default_factory=Truth)
    faults: Faults = field(default_factory=Faults)
    gen: int = 0
    alive: bool = True
    lease: Lease = field(default_factory=lambda: Lease(TTL))
    state: ElectionState | None = None
    seen: int = -1  # which of the store's boards it is
    requests: int = 0
    acting: Action | None = None

    def __post_init__(self) -> None:
        self.instance = InstanceInfo(
            self.name, SERVICE, "127.0.0.1", 1, 1, (), (), ("m",), "127.0.0.1:2", "live"
        )
        self.context = ElectionContext(
            consul=cast("ConsulApi", SuspendingConsul(lambda: self.world.catalog(self))),
            service=SERVICE,
            instance=self.name,
            checks=lambda: (self.instance.verdict_check, self.instance.sidecar_check),
            lock_delay=self.lock_delay,
            now=self.mono,
            wall=self.wall,
            order_id=self._order_id,
        )
        self._orders = 0
        self._reset()

    def _reset(self) -> None:
        self.lease, self.state, self.seen = Lease(TTL), None, -1
        self.published: Verdict | None = None
        self.fit: Fit | None = None
        self.draining = self.leaving = False
        self.stopping: str | None = None
        self.acting = None
        self._field: Field | None = None
        self._free_since: float | None = None
        self._act = self._timer = 0  # numbers, so that outdated events are recognized
        self._busy = self._proving = False
        # By kind of action: its failures in a row, and when it may be retried.
        self._failures: dict[type[Action], tuple[int, float]] = {}
        self.stand: tuple[Intent, Candidate, str] = (
            Intent.YIELD, Candidate(self.name, "critical"), "it has just started"
        )  # fmt: skip

    def _order_id(self) -> str:
        self._orders += 1
        return f"{self.name}-{self.gen}-{self._orders}"

    # --- clocks and beliefs -----------------------------------------------------------------

    def mono(self) -> float:
        return self.world.now + self.boot

    def wall(self) -> float:
        return EPOCH + self.world.now + self.faults.skew

    @property
    def role(self) -> Role:
        return lease.role(self.lease, self.mono(), promoting=self.stand[1].cold)

    @property
    def claim(self) -> int:
        """The epoch of its lease, or 0."""
        return self.lease.epoch if self.alive and self.role in CLAIMS else 0

    @property
    def settled_at(self) -> float | None:
        """When (Unix seconds) it will have settled, as it publishes."""
        return self.fit.settled_at(self.rules.settle, self.mono()) if self.fit else None

    @property
    def idle(self) -> bool:
        return not self._busy

    # --- life -------------------------------------------------------------------------------

    def crash(self) -> None:
        self.alive = False
        self.gen += 1

    def start(self, boot: float) -> None:
        self.gen += 1
        self.boot, self.alive = boot, True
        self._reset()
        self.later(0.0, self.step)

    def later(self, pause: float, what: Callable[[], None]) -> None:
        self.world.at(self.world.now + pause, what, self)

    def reconsider(self) -> None:
        """Update its candidacy."""
        passing = self.published is not None and self.published.state is State.PASSING
        before, self.fit = (
            self.fit,
            (self.fit or Fit(self.mono(), self.wall())) if passing else None,
        )
        if self.fit != before:
            self.world.register(self)
            self.later(self.rules.settle, lambda: self.world.register(self))
        known = InstanceFacts(
            published=self.published,
            draining=self.draining,
            leaving=self.leaving,
            maintained=self.truth.maintained,
            fit_since=self.fit.since if self.fit else None,
            priority=self.truth.priority,
            model_set=self.truth.model_set,
            tags=self.truth.tags,
        )
        stand = own_candidacy.stand(self.name, known)
        if stand != self.stand:
            self.stand = stand
            self.step()

    def push(self) -> None:
        """Push the verdict until the agent accepts it."""
        verdict = VERDICTS[self.truth.state]
        if not self.world.say(self, verdict):
            self.later(1.0, self.push)
        elif verdict is not self.published:
            self.published = verdict
            self.reconsider()

    # --- the watch --------------------------------------------------------------------------

    def see(self, number: int, state: ElectionState) -> None:
        self.requests += 1
        self.seen, self.state = number, state
        if state.lock.session is not None:
            self._free_since = None
        elif self._free_since is None:
            self._free_since = self.mono()
        self._prove()
        self.step()

    # --- the loop that decides and acts -----------------------------------------------------

    def step(self) -> None:
        """Decide and act until it must wait."""
        if self._busy:
            return
        intent, own, why = self.stand
        now = self.mono()
        view = ElectionView(
            self.state, own, intent, self._field, self._free_since, self.wall(), why
        )
        known = lease.after_stall(self.lease, now)
        if self.state is not None:
            known = lease.observe(known, self.state.lock, self.name, now)
        self._learn(known)
        decided = decision.decide(view, self.lease, now, self.rules)
        if isinstance(decided, Wait):
            self._wake_at(decided.until)
        elif (again := self._failures.get(type(decided), (0, 0.0))[1]) > now:
            held = self.lease.session is not None and now < self.lease.renewal
            self._wake_at(min(again, self.lease.renewal) if held else again)
        else:
            self._start(decided, view)

    def _wake_at(self, when: float | None) -> None:
        self._timer += 1
        number = self._timer

        def wake() -> None:
            if number == self._timer:
                self.step()

        if when is not None:
            self.later(max(0.0, when - self.mono()), wake)

    def _start(self, action: Action, view: ElectionView) -> None:
        self._busy, self.acting = True, action
        self._act += 1
        self._timer += 1
        number, trap = self._act, self.faults.trap
        self.faults.trap = None
        self._learn(execute.begun(action, self.lease, self.mono()))
        if isinstance(action, actions.NameCandidate):
            self.world.directed(self, view, action)
        if trap and trap[0] == 0:
            self.freeze(trap[1])
        held, slow = self.lease, bool(trap or self.faults.fate or self.faults.cut)

        def begin() -> None:
            work = execute.execute(action, view, held, self.context)
            self._drive(work, lambda done: self._done(action, number, done), trap)
            left = lease.remaining(self.lease, self.mono())
            if left is not None and (slow or left < 2 * TIMEOUT / 3):
                self.later(left, lambda: self._abandon(number))

        if trap and trap[0] == 0:
            self.later(0.0, begin)
        else:
            begin()

    def _drive(
        self,
        work: Coroutine[Any, Any, Any],
        done: Callable[[Any], None],
        trap: tuple[int, float] | None = None,
    ) -> None:
        """Run a coroutine up to its next request, and deliver the result."""
        request: Request = work.send(None)
        self.requests += 1
        gen, open_ = self.gen, True

        def answered(answer: Any) -> None:
            nonlocal open_
            if not open_ or gen != self.gen:
                work.close()
                return
            open_ = False
            try:
                if isinstance(answer, SidecarError):
                    work.throw(answer)
                else:
                    work.send(answer)
            except StopIteration as stop:
                done(stop.value)
            except SidecarError as error:
                done(error)

        if trap and trap[0]:
            self.freeze(trap[1])
        # Frozen before the request was written, or before the answer is read.
        written = self.faults.frozen_until if trap and trap[0] == 1 else 0.0
        self.world.send(self, request, answered, written)
        if trap:  # the world reports other requests as unanswered
            self.later(TIMEOUT, lambda: answered(Unavailable("no answer in time")))

    def _abandon(self, number: int) -> None:
        """The claim also ends on time while a request hangs."""
        if self._busy and number == self._act:
            self._busy, self.acting = False, None
            self.step()

    def _done(self, action: Action, number: int, done: Done | SidecarError) -> None:
        if number != self._act or not self._busy:
            return
        self._busy, self.acting = False, None
        match done:
            case Done():
                self._field = done.field or self._field
                self._learn(done.lease)
                self._failures.pop(type(action), None)
            case SessionLost():
                self._learn(lease.lost(self.lease))
            case _:
                self._fail(action)
        self.step()

    def _fail(self, action: Action) -> None:
        failures = self._failures.get(type(action), (0, 0.0))[0] + 1
        most = _RENEWALS if isinstance(action, actions.RenewSession) else _MOST
        pause = min(_FIRST * 2.0 ** min(failures - 1, 16), most)
        self._failures[type(action)] = failures, self.mono() + pause

    def _learn(self, known: Lease) -> None:
        before, self.lease = self.lease, known
        if before is not known and before != known:
            self.world.learnt(self)
            if self.stopping is not None and self.leaving and known.session is None:
                self.stopping = "gone"

    # --- the participant's other tasks --------------------------------------------------------

    def _prove(self) -> None:
        """Write a proof for an order that names this instance, and repeat while there is one."""
        state = self.state
        if self._proving or state is None or state.order is None:
            return
        self._proving = True
        order, now, wall = state.order, self.mono(), self.wall()

        def again(_: Any = None) -> None:
            self._proving = False
            self._prove()

        if not own_candidacy.wants_proof(state, self.name, wall):
            self.later(_PROOFS, again)
            return
        rules = self.rules
        found = own_candidacy.objection(
            self.stand[1], rules.declared, state, order, now, wall, rules.settle
        )
        if isinstance(found, Settle):
            self.later(min(found.seconds, _PROOFS), again)
            return
        work = execute.write_proof(order, found or self.truth.asked, self.context)
        self._drive(work, lambda _: self.later(_PROOFS, again))

    def stop(self) -> None:
        """Stop gracefully: hand over as primary, then deregister."""
        if self.stopping is not None:
            return
        self.stopping = "handing over"
        state = self.state
        if self.role is not Role.PRIMARY or state is None or state.paused(self.wall()):
            self._leave()
            return
        index = state.order.index if state.order else 0
        given = execute.new_order(Kind.STOP, None, "the primary is stopping", self.context)
        deadline = self.world.now + HAND_OVER

        def asked(error: SidecarError | None) -> None:
            if error:
                self._leave()
            else:
                wait(given.id)

        def wait(order: str) -> None:
            ended = self.state and self.state.outcome and self.state.outcome.order == order
            if ended or self.role is not Role.PRIMARY or self.world.now >= deadline:
                self._leave()
            else:
                self.later(0.5, lambda: wait(order))

        self._drive(execute.write_order(given, index, self.context), asked)

    def _leave(self) -> None:
        self.draining = True
        self.reconsider()

        def leave() -> None:
            self.leaving = True
            self.reconsider()
            if self.lease.session is None:
                self.stopping = "gone"

        self.later(1.0, leave)

    def freeze(self, seconds: float) -> None:
        self.faults.frozen_until = max(self.faults.frozen_until, self.world.now + seconds)
