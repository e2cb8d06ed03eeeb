"""The election loops: one watches the board, one performs what `decide` says."""

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
_RETRY = 0.5  # seconds between looks while Consul does not answer
# Seconds between attempts at the same action: the first one, and at most. Renewals go on often
# enough for two of them to fit into what is left of the TTL.
_FIRST, _MOST, _RENEWALS = 0.2, 8.0, 1.0
_CALM = 30.0  # seconds after which failures are forgotten
# Why a role has changed without an action.
_BY_ITSELF = {
    Role.PRIMARY: "its models are loaded",
    Role.UNCONFIRMED: "not renewed in time, or a release went unanswered",
}


class Election:
    """Takes part in the election until it is cancelled.

    `board` has what Consul's keys say, `role` and `epoch` how its own claim stands. The owner
    writes `stand`: what the instance wants, and how it stands as a candidate. `why` tells what is
    being waited for. `strict` is whether only who has the role serves.
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
        # By kind of action: how often it has failed in a row, and when it may be tried again.
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
        """The role at this very moment: the claim ends by the clock, whether a loop ran or not."""
        own = self.candidacy.value[1]
        promoting = own.cold or own.promoting
        return lease.role(self._lease, self._clock.now(), promoting=promoting)

    @property
    def epoch(self) -> int:
        """The epoch that is held, 0 unless primary."""
        return self._lease.epoch if self.role in (Role.PRIMARY, Role.PROMOTING) else 0

    @property
    def remaining(self) -> float:
        """Seconds for which the claim stands without another renewal."""
        return lease.remaining(self._lease, self._clock.now()) or 0.0

    @property
    def reference(self) -> str:
        """The digest of the model set that a primary has to serve, or "" for any.

        Before the first look at the catalog nobody knows whether there is another one that has it.
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
        """Go by these rules from the next decision on."""
        self._rules = rules

    async def closed(self) -> None:
        """Wait until no session is held any more."""
        async for session in self._session:
            if session is None:
                return

    async def watch(self) -> None:
        """Keep `board` as Consul has it, for ever."""
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
        """Decide and act, for ever."""
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
        """What ends the session when it turns critical.

        The verdict of a cold standby is critical until it is promoted, and is not asked for. In
        strict mode the end of a session is followed by a long lock-delay: there a verdict makes
        the holder give the lock back, which is not.
        """
        own, alone = self._instance, self.strict or self.candidacy.value[1].cold
        return (own.sidecar_check,) if alone else (own.verdict_check, own.sidecar_check)

    async def _act(self, action: Action, view: ElectionView) -> None:
        """Perform one action.

        Its own claim ends on time even while a request hangs, which is then cancelled.
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
            work.add_done_callback(_discard_result)  # what it brings is seen on the board
            return
        try:
            self._apply(action, work.result())
            self._failures.pop(type(action), None)
        except SessionLost as error:
            self._update(lease.lost(self._lease), str(error))
        except SidecarError:  # the door has reported it
            self._fail(action)

    def _apply(self, action: Action, done: Done) -> None:
        self._field = done.field or self._field
        why = action.cause if isinstance(action, actions.Acquire) else ""
        why = action.why if isinstance(action, actions.Release) else why
        self._update(done.lease, why)

    def _fail(self, action: Action) -> None:
        """Another attempt at the same has to wait, the longer the more have failed."""
        failures = self._failures.get(type(action), (0, 0.0))[0] + 1
        most = _RENEWALS if isinstance(action, actions.RenewSession) else _MOST
        pause = self._clock.jitter(min(_FIRST * 2.0 ** min(failures - 1, 16), most), 0.3)
        self._failures[type(action)] = failures, self._clock.now() + pause

    def _forget_failures(self) -> None:
        """What failed long ago is no reason to wait now."""
        now, known = self._clock.now(), self._failures.items()
        self._failures = {kind: (n, again) for kind, (n, again) in known if now < again + _CALM}

    def _pause(self, action: Action) -> float:
        """Seconds until an action may be tried, if it has failed lately."""
        _, again = self._failures.get(type(action), (0, 0.0))
        return again - self._clock.now()

    def _held(self) -> bool:
        """Whether there is a session whose renewal is to come, which nothing may hold up."""
        return self._lease.session is not None and self._clock.now() < self._lease.renewal

    def _update(self, known: Lease, why: str) -> None:
        """Take over a lease and say what role it makes."""
        self._lease = known
        self._session.set(known.session)
        before, _ = self.role_epoch.value
        self.role_epoch.set((role := self.role, self.epoch))
        if role is not before:
            self._hook(RoleChanged(before, role, self.epoch, why))

    async def _wait(self, seen: tuple[int, int], until: float | None) -> None:
        """Until the stand or the board are not the ones seen, or it is time to decide again."""
        pause = None if until is None else max(0.0, until - self._clock.now())
        await first_of(
            self._clock, pause, self.candidacy.changed(seen[0]), self.state.changed(seen[1])
        )


def _discard_result(work: "asyncio.Future[Done]") -> None:
    """Nobody waits any more for what it brings, or how it has failed."""
    if not work.cancelled():
        work.exception()
