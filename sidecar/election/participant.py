"""The own instance in the election: everything that depends on the role, wired together."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sidecar.consul.api import ConsulApi
from sidecar.election import candidacy, decision, execute
from sidecar.election.candidacy import Circumstances, Fit, Settle
from sidecar.election.keys.orders import ElectionState
from sidecar.election.lease import Role
from sidecar.election.loop import Election
from sidecar.election.role import handover
from sidecar.election.role.history_update import Count, HistoryUpdate
from sidecar.election.role.model_set_check import ModelSetCheck, ModelSetInputs
from sidecar.election.role.promotion import ColdModels, Phase, Promotion, PromotionCells
from sidecar.election.role.strict_mode import StrictMode
from sidecar.election.rules import ElectionRules
from sidecar.events import FailbackDue, Hook, Paused
from sidecar.health.assessment import Assessment
from sidecar.registry.registration import InstanceInfo
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import SidecarError
from sidecar.runtime.latest import Latest, first_of
from sidecar.triton.api import TritonApi
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State

T = TypeVar("T")
Loop = Callable[[], Coroutine[Any, Any, None]]
_LOADED = (Phase.PROVING, Phase.WARM)
_RETRY = 1.0  # seconds until something that Consul refused is tried again


@dataclass(frozen=True, slots=True)
class SidecarPorts:
    """What the rest of the sidecar knows, and what it can be asked for.

    `triton` serves `models`, which are in the order in which they are loaded. `published` is the
    verdict that Consul has confirmed, `maintained` why somebody else wants the instance out of
    service, `model_set` the digest of what is served. `headroom` tells what is missing for models
    to be loaded. `ask` asks every canary once; what is wrong with the answers is the result.
    `idle` waits until nothing is in flight. `count` is told what became of the requests of clients.
    `unloaded` is told that models were unloaded, perhaps not all of them. `nudge` has the
    registration compared.
    """

    triton: TritonApi
    models: Sequence[str]
    published: Latest[Verdict | None]
    maintained: Latest[str | None]
    model_set: Latest[str]
    headroom: Callable[[], str]
    ask: Callable[[], Awaitable[str]]
    idle: Callable[[], Awaitable[None]]
    count: Count
    unloaded: Callable[[], None]
    nudge: Callable[[], None]


class Participant:
    """Stands for election until its loops are cancelled."""

    def __init__(
        self,
        rules: ElectionRules,
        instance: InstanceInfo,
        consul: ConsulApi,
        assessment: Assessment,
        ports: SidecarPorts,
        clock: Clock,
        hook: Hook,
    ) -> None:
        self.election = Election(consul, instance, rules, clock, hook)
        # Why automation is paused, or nothing.
        self.paused: Latest[str] = Latest("")
        self._rules = Latest(rules)
        self._instance = instance
        self._assessment = assessment
        self._ports = ports
        self._clock = clock
        self._hook = hook
        self._leaving = False
        # Whether it is to be taken out of service, and looks for a successor first.
        self._handing_over: Latest[bool] = Latest(False)
        self._fit: Fit | None = None
        self._holds: Latest[bool] = Latest(False)
        self._serving: Latest[bool] = Latest(False)
        # Whether anybody has been seen with the role; until then models that are loaded stay so.
        self._primary_seen = False
        self._keeps: Latest[bool] = Latest(True)
        self._strict = StrictMode(self.election, assessment, clock) if rules.strict else None
        self._model_set_check = ModelSetCheck(
            instance.id,
            ModelSetInputs(self._rules, self.election.state, ports.model_set),
            assessment,
            clock,
            hook,
            self._tell,
            lambda: self.election.reference,
        )
        self._history_update = HistoryUpdate(
            self.election.role_epoch,
            lambda: self.election.session,
            self.election.context,
            ports.count,
            clock,
        )
        self._promotion = self._cold(rules) if rules.cold else None

    def _cold(self, rules: ElectionRules) -> Promotion:
        ports, restarts = self._ports, self._assessment.restarts
        return Promotion(
            ColdModels(
                triton=ports.triton,
                names=ports.models,
                ask=ports.ask,
                verify=self._model_set_check.verify,
                idle=ports.idle,
                unloaded=ports.unloaded,
            ),
            PromotionCells(self._holds, self._serving, self._keeps, restarts),
            rules.promotion,
            self._clock,
            self._hook,
        )

    def loops(self) -> dict[str, Loop]:
        """The loops by name; each runs until it is cancelled."""
        found: dict[str, Loop] = {
            "elect": self.election.run,
            "watch the election": self.election.watch,
            "follow the verdict": self._follow_verdict,
            "follow maintenance": self._follow_maintenance,
            "follow the role": self._follow_role,
            "follow the board": self._follow_state,
            "prove to be fit": self._prove,
            "complete the history": self._history_update.run,
            "compare the model set": self._model_set_check.run,
        }
        if self._strict:
            found["withdraw in time"] = self._strict.run
        if self._promotion:
            found |= {"promote": self._promotion.run, "follow the promotion": self._follow_phase}
        return found

    def configure(self, rules: ElectionRules, instance: InstanceInfo) -> None:
        """Take over what was reloaded."""
        self._instance = instance
        self._rules.set(rules)
        self.election.configure(rules.decision)
        self.reconsider()

    @property
    def role(self) -> Role:
        """The role at this very moment."""
        return self.election.role

    def _pause(self) -> str:
        """Why automation is paused as the board says now, or nothing."""
        state = self.election.state.value
        if state is None or state.pause is None or not state.paused(self._clock.wall()):
            return ""
        return f"by {state.pause.by}: {state.pause.reason}".rstrip(": ")

    @property
    def differs(self) -> str:
        """Whose model set differs from its own, or nothing."""
        return self._model_set_check.differs.value

    @property
    def shown(self) -> Latest[Verdict]:
        """The verdict as grpc.health.v1 is to tell it."""
        return self._strict.shown if self._strict else self._assessment.verdict

    def may_serve(self) -> bool:
        """Whether the role allows to serve at this very moment."""
        return self._strict is None or self._strict.may_serve()

    @property
    def cold(self) -> bool:
        """Whether it is a standby whose models are not loaded, or not known to be."""
        return self._promotion is not None and self._promotion.phase.value not in _LOADED

    @property
    def unfit(self) -> str:
        """What the instance says against itself as a candidate, beyond its verdict."""
        return self.election.candidacy.value[1].unfit

    @property
    def settled_at(self) -> float | None:
        """When (Unix seconds) it will have passed for `election.settle`; None if it has."""
        if self._fit is None:
            return None
        return self._fit.settled_at(self._rules.value.decision.settle, self._clock.now())

    def reconsider(self) -> None:
        """Stand as things are now."""
        published, verdict = self._ports.published.value, self._assessment.verdict.value
        fit = published is not None and published.state in (State.PASSING, State.COLD)
        self._fit = (self._fit or Fit(self._clock.now(), self._clock.wall())) if fit else None
        self._serving.set(published is not None and published.serving)
        phase = self._promotion.phase.value if self._promotion else None
        known = Circumstances(
            published=published,
            draining=verdict.state is State.DRAINING,
            leaving=self._leaving,
            maintained=self._ports.maintained.value,
            handing_over=self._handing_over.value,
            fit_since=self._fit.since if self._fit else None,
            cold=self.cold,
            promoting=phase in (Phase.LOADING, Phase.PROVING),
            failed=self._promotion.why if self._promotion else "",
            headroom=self._ports.headroom() if phase is Phase.COLD else "",
            priority=self._rules.value.priority,
            model_set=self._ports.model_set.value,
            tags=self._instance.tags,
        )
        self.election.candidacy.set(candidacy.stand(self._instance.id, known))

    async def hand_over(self) -> None:
        """Before an orderly stop: let a candidate that proves itself have the role first.

        Nothing is to be handed over without the role, and nobody takes it while automation is
        paused. While Consul does not answer it goes on trying.

        Raises:
            Conflict: another order is pending; it stays.
            SidecarError: Consul refuses.
        """
        async for handing_over in self._handing_over:
            if not handing_over:
                break
        state = self.election.state.value
        if self.role is Role.PRIMARY and not self.paused.value and state is not None:
            await handover.offer(self.election, state, self._clock)

    async def leave(self) -> None:
        """Release lock and session, and wait until they are released."""
        self._leaving = True
        self.reconsider()
        await self.election.closed()

    # --- loops ------------------------------------------------------------------------------

    async def _follow_verdict(self) -> None:
        async for _ in self._ports.published:
            fit = self._fit
            self.reconsider()
            if self._fit != fit:
                self._ports.nudge()  # others see from when on it will have settled

    async def _follow_maintenance(self) -> None:
        """Serve no more while somebody else wants that, but not before another one does."""
        out = False
        async for why in self._ports.maintained:
            if why is not None and not out:
                await self._hand_over_first(why)
            why = self._ports.maintained.value
            out = why is not None
            self._assessment.maintain(why)
            self.reconsider()

    async def _hand_over_first(self, why: str) -> None:
        """Go on while it serves until somebody else does or won't soon, or it may stay."""
        verdict = self._assessment.verdict
        if self.paused.value or not verdict.value.serving:
            return
        self._handing_over.set(True)
        self._keep()
        self.reconsider()
        patience = self._rules.value.promotion.timeout
        relieved = handover.relieve(self.election, self._clock, f"in maintenance: {why}", patience)
        stays = _until(self._ports.maintained, lambda why: why is None)
        fell = _until(verdict, lambda now: not now.serving)  # somebody may have stopped its Triton
        await first_of(self._clock, None, relieved, stays, fell)
        self._handing_over.set(False)
        self._keep()

    def _keep(self) -> None:
        """Unload nothing while it hands over, nor before it is known who has the role."""
        state = self.election.state.value
        holder = state.lock.instance if state else None
        self._primary_seen |= self._holds.value or holder not in (None, self._instance.id)
        self._keeps.set(self._handing_over.value or not self._primary_seen)

    async def _follow_role(self) -> None:
        async for role, _ in self.election.role_epoch:
            self._holds.set(role in (Role.PRIMARY, Role.PROMOTING, Role.UNCONFIRMED))
            self._keep()
            self._tell()

    async def _follow_phase(self) -> None:
        """A cold standby whose models are loaded is looked at like any other.

        So is one of which that is not known: its Triton may have served all the time.
        """
        assert self._promotion  # noqa: S101  # there is no such loop otherwise
        async for phase in self._promotion.phase:
            if phase in _LOADED:
                self._assessment.leave_cold_standby()
            elif phase is not Phase.UNKNOWN:
                self._assessment.enter_cold_standby(self._promotion.why or phase.value)
            self._tell()

    async def _follow_state(self) -> None:
        """Heed the board, and tell people what it says, when it changes or its pause is over."""
        due = False
        while True:
            seen, state = self.election.state.version, self.election.state.value
            self._keep()
            if (why := self._pause()) != self.paused.value:
                self.paused.set(why)
                self._hook(Paused(why))
                self._ports.nudge()
            if (now_due := self._failback_due(state)) != due:
                due = now_due
                self._hook(FailbackDue(due))
            await first_of(
                self._clock,
                5.0,
                self.election.state.changed(seen),
                self.election.candidacy.changed(self.election.candidacy.version),
            )

    def _failback_due(self, state: ElectionState | None) -> bool:
        wanted = self._rules.value.decision.failback is not decision.Failback.NEVER
        own = self.election.candidacy.value[1]
        return wanted and state is not None and decision.failback_due(own, state.lock)

    async def _prove(self) -> None:
        """Answer orders that name this instance: look at itself anew, and say what was found."""
        election = self.election
        while True:
            seen, state = election.state.version, election.state.value
            waits, wall = state is not None and state.order is not None, self._clock.wall()
            pause = self._clock.jitter(_RETRY, 0.2) if waits else None
            if candidacy.wants_proof(state, self._instance.id, wall) and state and state.order:
                rules, order = self._rules.value.decision, state.order
                own, now = election.candidacy.value[1], self._clock.now()
                found = candidacy.objection(
                    own, rules.declared, state, order, now, wall, rules.settle
                )
                if isinstance(found, Settle):
                    # Not refused: the order would have to be given again.
                    pause = min(found.seconds, _RETRY)
                else:
                    why = found or ("" if self.cold else await self._ports.ask())
                    await self._try(execute.write_proof(order, why, election.context))
            await first_of(self._clock, pause, election.state.changed(seen))

    def _tell(self) -> None:
        """Something of what others see has changed."""
        self.reconsider()
        self._ports.nudge()

    async def _try(self, work: Awaitable[None]) -> None:
        """Something that may fail: it will be tried again, or is not worth it."""
        try:
            await work
        except SidecarError:  # the door has reported it
            await asyncio.sleep(0)


async def _until(cell: Latest[T], wanted: Callable[[T], bool]) -> None:
    """Wait until there is something in a cell that is wanted."""
    async for value in cell:
        if wanted(value):
            return
