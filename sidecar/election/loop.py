"""The election's two loops: one watches the keys, the other decides and executes.

Acts: asyncio.
"""

import asyncio
import uuid

from sidecar.consul.api import ConsulApi, KVEntry, QueryResult
from sidecar.consul.blocking_query import follow
from sidecar.election import actions, candidates, decision, lease
from sidecar.election.actions import Action, Wait
from sidecar.election.candidates import Candidate, Field
from sidecar.election.decision import DecisionRules, ElectionView, Intent
from sidecar.election.execute import Done, ElectionContext, begun, execute
from sidecar.election.keys import lock, orders
from sidecar.election.keys.orders import ElectionState
from sidecar.election.lease import Lease, Role
from sidecar.election.rules import ElectionRules
from sidecar.events import Hook, RoleChanged
from sidecar.registry.registration import InstanceInfo
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import SessionLost, SidecarError
from sidecar.runtime.latest import Latest, first_of

_WAIT = 60.0  # seconds that a blocking query may block
_RETRY = 0.5  # seconds between attempts while Consul does not answer
# Seconds between attempts at the same action: at first, and at most. Renewals are retried often
# enough for two of them to fit into the rest of the TTL.
_FIRST, _MOST, _RENEWALS = 0.2, 8.0, 1.0
_CALM = 30.0  # seconds after which failures no longer count
# Why a role changes without an action.
_BY_ITSELF = {
    Role.PRIMARY: "its models are loaded",
    Role.UNCONFIRMED: "not renewed in time, or a release went unanswered",
}


class Election:
    """Takes part in the election until it is cancelled.

    `state` is the content of the election's keys, `role_epoch` this instance's own role and epoch.
    The owner writes `candidacy`: what the instance wants, and the instance as a candidate. `why`
    says what it waits for. `strict`: only the primary serves.
    """

    def __init__(
        self,
        consul: ConsulApi,
        instance: InstanceInfo,
        rules: ElectionRules,
        clock: Clock,
        hook: Hook,
    ) -> None:
        self.candidacy: Latest[tuple[Intent, Candidate, str]] = Latest(
            (Intent.YIELD, Candidate(instance.id, "critical"), "it has just started")
        )
        self.state: Latest[ElectionState | None] = Latest(None)
        self.role_epoch: Latest[tuple[Role, int]] = Latest((Role.STANDBY, 0))
        self.why: Latest[str] = Latest("")
        self._lease = Lease(rules.session_ttl)
        self._session: Latest[str | None] = Latest(None)
        self._field: Field | None = None
        self._free_since: float | None = None
        self._rules = rules.decision
        self.strict = rules.strict
        self._instance = instance
        self._clock = clock
        self._hook = hook
        # By kind of action: how often it has failed in a row, and when it may be retried.
        self._failures: dict[type[Action], tuple[int, float]] = {}
        self.context = ElectionContext(
            consul=consul,
            service=instance.service,
            instance=instance.id,
            checks=self._checks,
            lock_delay=rules.lock_delay,
            now=clock.now,
            wall=clock.wall,
            order_id=lambda: uuid.uuid4().hex[:12],
        )

    @property
    def role(self) -> Role:
        """The role right now: the claim ends by the clock, whether or not a loop has run."""
        own = self.candidacy.value[1]
        promoting = own.cold or own.promoting
        return lease.role(self._lease, self._clock.now(), promoting=promoting)

    @property
    def epoch(self) -> int:
        """The epoch of the held lock, 0 without the role."""
        return self._lease.epoch if self.role in (Role.PRIMARY, Role.PROMOTING) else 0

    @property
    def remaining(self) -> float:
        """Seconds until the claim ends without another renewal, 0 without one."""
        return lease.remaining(self._lease, self._clock.now()) or 0.0

    @property
    def reference(self) -> str:
        """The digest of the model set that a primary must serve, or "" for any.

        Until the catalog has been read, the last primary's set counts: others may have it.
        """
        state, declared = self.state.value, self._rules.declared
        last = state.lock.last.model_set if state and state.lock.last else ""
        if self._field is None:
            return declared or last
        return candidates.reference(declared, last, self._field.candidates)

    @property
    def session(self) -> str | None:
        """The session that holds the lock."""
        return self._lease.session if self.epoch else None

    def configure(self, rules: DecisionRules) -> None:
        """Use these rules from the next decision on."""
        self._rules = rules

    async def closed(self) -> None:
        """Wait until no session is held."""
        async for session in self._session:
            if session is None:
                return

    async def watch(self) -> None:
        """Keep `state` up to date with Consul, forever."""
        service, consul = self._instance.service, self.context.consul

        async def query(index: int) -> QueryResult[tuple[KVEntry, ...]]:
            return await consul.kv_prefix(lock.prefix(service), index=index, wait=_WAIT)

        def see(answer: QueryResult[tuple[KVEntry, ...]]) -> None:
            state = orders.read(service, answer.value, answer.index)
            if state.lock.session is not None:
                self._free_since = None
            elif self._free_since is None:
                self._free_since = self._clock.now()
            self.state.set(state)

        await follow(query, see, lambda why: None, self._clock, _RETRY)

    async def run(self) -> None:
        """Decide and act, forever."""
        while True:
            seen = self.candidacy.version, self.state.version
            view = self._view()
            self._update(
                lease.after_stall(self._lease, self._clock.now()),
                "its process stalled for a session TTL",
            )
            if view.state is not None:
                own, now = self._instance.id, self._clock.now()
                known = lease.observe(self._lease, view.state.lock, own, now)
                self._update(known, "as the lock says")
            decided = decision.decide(view, self._lease, self._clock.now(), self._rules)
            if isinstance(decided, Wait):
                self._forget_failures()
                self.why.set(decided.why)
                await self._wait(seen, decided.until)
            elif (pause := self._pause(decided)) > 0:
                again = self._clock.now() + pause
                await self._wait(seen, min(again, self._lease.renewal) if self._held() else again)
            else:
                await self._act(decided, view)
            self._update(self._lease, _BY_ITSELF.get(self.role, "its claim has expired"))

    def _view(self) -> ElectionView:
        intent, own, why = self.candidacy.value
        return ElectionView(
            state=self.state.value,
            own=own,
            intent=intent,
            field=self._field,
            free_since=self._free_since,
            wall=self._clock.wall(),
            why=why,
        )

    def _checks(self) -> tuple[str, ...]:
        """The checks that end the session when they turn critical.

        A cold standby's verdict is critical until it is promoted, so it is left out. In strict mode
        a long lock-delay follows the end of a session, but not a release: there the holder
        releases the lock because of its verdict instead.
        """
        own, alone = self._instance, self.strict or self.candidacy.value[1].cold
        return (own.sidecar_check,) if alone else (own.verdict_check, own.sidecar_check)

    async def _act(self, action: Action, view: ElectionView) -> None:
        """Execute one action.

        The claim ends on time even while a request hangs; the result is then ignored.
        """
        self._lease = begun(action, self._lease, self._clock.now())
        work = asyncio.ensure_future(execute(action, view, self._lease, self.context))
        left = lease.remaining(self._lease, self._clock.now())
        try:
            await first_of(self._clock, left, asyncio.wait((work,)))
        except asyncio.CancelledError:
            work.cancel()
            raise
        if not work.done():
            work.add_done_callback(_discard_result)  # its effect shows in the keys
            return
        try:
            self._apply(action, work.result())
            self._failures.pop(type(action), None)
        except SessionLost as error:
            self._update(lease.lost(self._lease), str(error))
        except SidecarError:  # the client has reported it
            self._fail(action)

    def _apply(self, action: Action, done: Done) -> None:
        self._field = done.field or self._field
        why = action.cause if isinstance(action, actions.Acquire) else ""
        why = action.why if isinstance(action, actions.Release) else why
        self._update(done.lease, why)

    def _fail(self, action: Action) -> None:
        """Delay the next attempt at the same action, longer after each failure."""
        failures = self._failures.get(type(action), (0, 0.0))[0] + 1
        most = _RENEWALS if isinstance(action, actions.RenewSession) else _MOST
        pause = self._clock.jitter(min(_FIRST * 2.0 ** min(failures - 1, 16), most), 0.3)
        self._failures[type(action)] = failures, self._clock.now() + pause

    def _forget_failures(self) -> None:
        """Drop failures that are too old to delay an action."""
        now, known = self._clock.now(), self._failures.items()
        self._failures = {kind: (n, again) for kind, (n, again) in known if now < again + _CALM}

    def _pause(self, action: Action) -> float:
        """Seconds until an action that has failed may be retried."""
        _, again = self._failures.get(type(action), (0, 0.0))
        return again - self._clock.now()

    def _held(self) -> bool:
        """Whether there is a session whose next renewal lies ahead; nothing may delay it."""
        return self._lease.session is not None and self._clock.now() < self._lease.renewal

    def _update(self, known: Lease, why: str) -> None:
        """Set the lease, and report the role that it gives."""
        self._lease = known
        self._session.set(known.session)
        before, _ = self.role_epoch.value
        self.role_epoch.set((role := self.role, self.epoch))
        if role is not before:
            self._hook(RoleChanged(before, role, self.epoch, why))

    async def _wait(self, seen: tuple[int, int], until: float | None) -> None:
        """Wait until candidacy or keys change from the versions seen, or until a time."""
        pause = None if until is None else max(0.0, until - self._clock.now())
        await first_of(
            self._clock, pause, self.candidacy.changed(seen[0]), self.state.changed(seen[1])
        )


def _discard_result(work: "asyncio.Future[Done]") -> None:
    """Ignore the result or error of an action that is no longer awaited."""
    if not work.cancelled():
        work.exception()
