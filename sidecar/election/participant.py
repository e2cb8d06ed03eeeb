"""This instance in the election: wires everything that depends on the role.

Acts: asyncio.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sidecar.consul.api import ConsulApi
from sidecar.election import decision, execute, own_candidacy
from sidecar.election.keys.orders import ElectionState
from sidecar.election.lease import Role
from sidecar.election.loop import Election
from sidecar.election.own_candidacy import Fit, InstanceFacts, Settle
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
_RETRY = 1.0  # seconds until a request that Consul refused is retried


@dataclass(frozen=True, slots=True)
class SidecarPorts:
    """What the election reads from the rest of the sidecar, and the calls it makes there.

    `triton` serves `models`, listed in loading order. `published` is the verdict that Consul has
    confirmed, `maintained` why others want the instance out of service, `model_set` the digest of
    the served set. `headroom` returns what is missing to load the models, `ask` runs every canary
    once and returns what is wrong with the answers. `idle` waits until nothing is in flight,
    `count` returns how many client requests were sent and failed, `unloaded` is called after models
    were unloaded, perhaps not all of them, and `nudge` has the registration compared.
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
        # Why automation is paused, or "".
        self.paused: Latest[str] = Latest("")
        self._rules = Latest(rules)
        self._instance = instance
        self._assessment = assessment
        self._ports = ports
        self._clock = clock
        self._hook = hook
        self._leaving = False
        # Whether it must leave service, and looks for a successor first.
        self._handing_over: Latest[bool] = Latest(False)
        self._fit: Fit | None = None
        self._holds: Latest[bool] = Latest(False)
        self._serving: Latest[bool] = Latest(False)
        # Whether a primary has been seen; until then loaded models stay loaded.
        self._primary_seen = False
        self._keeps: Latest[bool] = Latest(True)
        self._strict = StrictMode(self.election, assessment, clock) if rules.strict else None
        self._model_set_check = ModelSetCheck(
            instance.id,
            ModelSetInputs(self._rules, self.election.state, ports.model_set),
            assessment,
            clock,
            hook,
            self._report_state,
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
            "follow the election": self._follow_state,
            "prove fitness": self._prove,
            "complete the history": self._history_update.run,
            "compare the model set": self._model_set_check.run,
        }
        if self._strict:
            found["withdraw in time"] = self._strict.run
        if self._promotion:
            found |= {"promote": self._promotion.run, "follow the promotion": self._follow_phase}
        return found

    def configure(self, rules: ElectionRules, instance: InstanceInfo) -> None:
        """Apply reloaded settings."""
        self._instance = instance
        self._rules.set(rules)
        self.election.configure(rules.decision)
        self.reconsider()

    @property
    def role(self) -> Role:
        """The role right now."""
        return self.election.role

    def _pause(self) -> str:
        """Why automation is paused now, or ""."""
        state = self.election.state.value
        if state is None or state.pause is None or not state.paused(self._clock.wall()):
            return ""
        return f"by {state.pause.by}: {state.pause.reason}".rstrip(": ")

    @property
    def differs(self) -> str:
        """How its model set differs from the primary's or the declared one, or ""."""
        return self._model_set_check.differs.value

    @property
    def shown(self) -> Latest[Verdict]:
        """The verdict that grpc.health.v1 reports."""
        return self._strict.shown if self._strict else self._assessment.verdict

    def may_serve(self) -> bool:
        """Whether the role allows it to serve right now."""
        return self._strict is None or self._strict.may_serve()

    @property
    def cold(self) -> bool:
        """Whether it is a cold standby whose models are not loaded, or not known to be."""
        return self._promotion is not None and self._promotion.phase.value not in _LOADED

    @property
    def unfit(self) -> str:
        """The instance's own objection to itself as a candidate, beyond its verdict."""
        return self.election.candidacy.value[1].unfit

    @property
    def settled_at(self) -> float | None:
        """When (Unix seconds) it will have passed for `election.settle`; None if it has."""
        if self._fit is None:
            return None
        return self._fit.settled_at(self._rules.value.decision.settle, self._clock.now())

    def reconsider(self) -> None:
        """Update the candidacy from the current facts."""
        published, verdict = self._ports.published.value, self._assessment.verdict.value
        fit = published is not None and published.state in (State.PASSING, State.COLD)
        self._fit = (self._fit or Fit(self._clock.now(), self._clock.wall())) if fit else None
        self._serving.set(published is not None and published.serving)
        phase = self._promotion.phase.value if self._promotion else None
        known = InstanceFacts(
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
        self.election.candidacy.set(own_candidacy.stand(self._instance.id, known))

    async def hand_over(self) -> None:
        """Hand the role to a candidate that proves itself, before a graceful stop.

        Does nothing without the role, or while automation is paused, because no instance would take
        it. Retries while Consul does not answer.

        Raises:
            Conflict: another order is pending, and stays.
            SidecarError: Consul refuses.
        """
        async for handing_over in self._handing_over:
            if not handing_over:
                break
        state = self.election.state.value
        if self.role is Role.PRIMARY and not self.paused.value and state is not None:
            await handover.offer(self.election, state, self._clock)

    async def leave(self) -> None:
        """Release the lock, close the session, and wait until both are done."""
        self._leaving = True
        self.reconsider()
        await self.election.closed()

    # --- loops ------------------------------------------------------------------------------

    async def _follow_verdict(self) -> None:
        async for _ in self._ports.published:
            fit = self._fit
            self.reconsider()
            if self._fit != fit:
                self._ports.nudge()  # publish when it will have settled

    async def _follow_maintenance(self) -> None:
        """Stop serving while others want it out of service, once another instance serves."""
        out = False
        async for why in self._ports.maintained:
            if why is not None and not out:
                await self._hand_over_first(why)
            why = self._ports.maintained.value
            out = why is not None
            self._assessment.maintain(why)
            self.reconsider()

    async def _hand_over_first(self, why: str) -> None:
        """Keep serving until another instance does, or none will soon, or maintenance is over."""
        verdict = self._assessment.verdict
        if self.paused.value or not verdict.value.serving:
            return
        self._handing_over.set(True)
        self._keep()
        self.reconsider()
        patience = self._rules.value.promotion.timeout
        relieved = handover.relieve(self.election, self._clock, f"in maintenance: {why}", patience)
        stays = _until(self._ports.maintained, lambda why: why is None)
        fell = _until(verdict, lambda now: not now.serving)  # its Triton may be stopped
        await first_of(self._clock, None, relieved, stays, fell)
        self._handing_over.set(False)
        self._keep()

    def _keep(self) -> None:
        """Unload nothing during a handover, nor before a primary has been seen."""
        state = self.election.state.value
        holder = state.lock.instance if state else None
        self._primary_seen |= self._holds.value or holder not in (None, self._instance.id)
        self._keeps.set(self._handing_over.value or not self._primary_seen)

    async def _follow_role(self) -> None:
        async for role, _ in self.election.role_epoch:
            self._holds.set(role in (Role.PRIMARY, Role.PROMOTING, Role.UNCONFIRMED))
            self._keep()
            self._report_state()

    async def _follow_phase(self) -> None:
        """Assess a cold standby like any other instance once its models are loaded.

        And while that is unknown: its Triton may have been serving all the time.
        """
        assert self._promotion  # noqa: S101  # the loop exists only with a promotion
        async for phase in self._promotion.phase:
            if phase in _LOADED:
                self._assessment.leave_cold_standby()
            elif phase is not Phase.UNKNOWN:
                self._assessment.enter_cold_standby(self._promotion.why or phase.value)
            self._report_state()

    async def _follow_state(self) -> None:
        """Apply and report changes in the election's keys, and the end of a pause."""
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
        """Answer orders that name this instance: run the canaries and write the proof."""
        election = self.election
        while True:
            seen, state = election.state.version, election.state.value
            waits, wall = state is not None and state.order is not None, self._clock.wall()
            pause = self._clock.jitter(_RETRY, 0.2) if waits else None
            if own_candidacy.wants_proof(state, self._instance.id, wall) and state and state.order:
                rules, order = self._rules.value.decision, state.order
                own, now = election.candidacy.value[1], self._clock.now()
                found = own_candidacy.objection(
                    own, rules.declared, state, order, now, wall, rules.settle
                )
                if isinstance(found, Settle):
                    # A refusal would end the order, so wait instead.
                    pause = min(found.seconds, _RETRY)
                else:
                    why = found or ("" if self.cold else await self._ports.ask())
                    await self._try(execute.write_proof(order, why, election.context))
            await first_of(self._clock, pause, election.state.changed(seen))

    def _report_state(self) -> None:
        """Publish what has changed."""
        self.reconsider()
        self._ports.nudge()

    async def _try(self, work: Awaitable[None]) -> None:
        """Await work whose failure needs no handling: it is retried, or optional."""
        try:
            await work
        except SidecarError:  # the client has reported it
            await asyncio.sleep(0)


async def _until(cell: Latest[T], wanted: Callable[[T], bool]) -> None:
    """Wait until a cell's value satisfies a condition."""
    async for value in cell:
        if wanted(value):
            return
