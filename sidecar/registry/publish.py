"""The publishing loop: keeps this instance's entry in Consul as it should be.

Everything is written through the local agent, for ever: after an agent's restart, after somebody
deleted or edited the entry, after the catalog lost it.
"""

import asyncio
from collections.abc import Callable

from sidecar.clock import Clock
from sidecar.consul_api import ConsulApi, Status
from sidecar.errors import SidecarError
from sidecar.events import Hook, Published, Registered
from sidecar.health.verdict import State, Verdict
from sidecar.latest import Latest
from sidecar.registry import record
from sidecar.registry.record import Instance, Standing

_RETRY = 0.5  # seconds between attempts while Consul does not answer


class Publisher:
    """Publishes until it is cancelled. `published` is the verdict that Consul has confirmed."""

    def __init__(
        self,
        consul: ConsulApi,
        verdict: Latest[Verdict],
        wished: Callable[[], tuple[Instance, Standing]],
        clock: Clock,
        hook: Hook,
    ) -> None:
        self.published: Latest[Verdict | None] = Latest(None)
        self._consul = consul
        self._verdict = verdict
        self._wished = wished
        self._clock = clock
        self._hook = hook
        self._known = False  # whether Consul is known to have the entry
        self._withdrawn = False
        self._nudge = asyncio.Event()

    def nudge(self) -> None:
        """Have the entry compared now: what is wished for has changed."""
        self._nudge.set()

    async def run(self) -> None:
        """Publish for ever."""
        seen, pause = -1, 0.0
        while True:
            await self._wait(seen, pause)
            seen = self._verdict.version
            try:
                await self._publish()
                pause = record.HEARTBEAT
            except SidecarError:
                # The door has reported it. What Consul holds now is not known.
                self._known = False
                self.published.set(None)
                pause = self._clock.jitter(_RETRY, 0.2)

    async def withdraw(self, why: str) -> None:
        """Take the instance out of the catalog's healthy set, and leave its session alone."""
        self._withdrawn = True
        instance, _ = self._wished()
        await self._consul.maintain_service(instance.id, why)

    async def _wait(self, seen: int, pause: float) -> None:
        """Until the verdict is not the one seen, somebody nudges, or `pause` has passed."""
        reasons = [
            asyncio.ensure_future(self._verdict.changed(seen)),
            asyncio.ensure_future(self._nudge.wait()),
            asyncio.ensure_future(self._clock.sleep(pause)),
        ]
        try:
            await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in reasons:
                task.cancel()
        self._nudge.clear()

    async def _publish(self) -> None:
        verdict = self._verdict.value
        news = verdict != self.published.value
        if not self._known:
            await self._reconcile()
        # A known entry gets the news first: this is the fast path from a fault to Envoy.
        await self._push(verdict)
        if news:
            self._hook(Published(verdict, self._clock.now() - verdict.at))
        self.published.set(verdict)
        await self._reconcile()

    async def _push(self, verdict: Verdict) -> None:
        status: Status = "passing" if record.check_status(verdict) == "passing" else "critical"
        instance, _ = self._wished()
        await self._consul.update_check(instance.verdict_check, status, verdict.summary)

    async def _reconcile(self) -> None:
        """Register if the agent or the catalog has anything else than it should."""
        if self._withdrawn:
            return
        instance, standing = self._wished()
        why = await self._deviation(instance, standing)
        if why:
            await self._consul.register_service(record.registration(instance, standing))
            self._hook(Registered(why))
            if self._verdict.value.state is State.PASSING:
                await self._push(self._verdict.value)
        self._known = True

    async def _deviation(self, instance: Instance, standing: Standing) -> str:
        own = instance.id
        observed = await self._consul.agent_service(own)
        if why := record.differences(instance, standing, observed):
            return why
        # The agent believes that the catalog has it: ask, for somebody may have deleted it there.
        answer = await self._consul.health_service(instance.service)
        return "" if any(entry.id == own for entry in answer.value) else "not in the catalog"
