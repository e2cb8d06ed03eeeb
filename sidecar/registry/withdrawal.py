"""A withdrawn instance's requests in flight: waits for them, and finally cuts them.

An instance is withdrawn by a graceful stop, by maintenance, or by its verdict. Envoy then sends it
no new requests, but ends none. Requests stuck in a hung Triton would wait forever; they can be cut
much sooner than requests that only take long.
Why: docs/decisions/0046-connections-of-a-hung-triton-are-reset.md.

Acts: asyncio.
"""

import asyncio
from collections.abc import Awaitable, Callable

from sidecar.events import ConnectionsReset, Hook, StepDone
from sidecar.registry.rules import DrainRules
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import SidecarError, Unavailable
from sidecar.runtime.latest import Latest, first_of
from sidecar.verdict.evidence import HUNG
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State

CUT = "reset_connections"
# Seconds between attempts to cut: at first, and at most.
_FIRST, _MOST = 2.0, 60.0


class Withdrawal:
    """Waits on one instance; `idle` returns once nothing is in flight, `cut` resets connections."""

    def __init__(
        self,
        rules: DrainRules,
        idle: Callable[[], Awaitable[None]],
        cut: Callable[[], Awaitable[int]],
        clock: Clock,
        hook: Hook,
    ) -> None:
        self.rules = rules
        self._idle = idle
        self._cut = cut
        self._clock = clock
        self._hook = hook
        self._left = False

    async def drain(self) -> None:
        """Wait until nothing is in flight; the caller sets the deadline."""
        self._left = True
        await self._idle()
        self._left = False

    async def cut(self) -> None:
        """Reset the connections that the last `drain` has left, if the rules say so.

        Raises:
            SidecarError: they cannot be reset.
        """
        if self.rules.cut:
            await self._cut_left()

    async def _cut_left(self) -> None:
        if self._left and (count := await self._cut()):
            self._hook(ConnectionsReset(count))

    async def watch(self, verdict: Latest[Verdict]) -> None:
        """Wait, then cut, once each time that the instance has stopped serving.

        A graceful stop has its own steps.
        """
        served = False
        async for now in verdict:
            if now.serving:
                served = True
            elif self._cuts and served and _withdrawn(now):
                served = await self._outlast(verdict)

    @property
    def _cuts(self) -> bool:
        return self.rules.cut or self.rules.cut_hung_after is not None

    async def _outlast(self, verdict: Latest[Verdict]) -> bool:
        """Follow one withdrawal to its end; returns whether the instance serves again by then."""
        began = self._clock.now()
        patience = asyncio.ensure_future(self._had_its_time(verdict, began))
        try:
            await first_of(
                self._clock, None, self.drain(), _over(verdict), asyncio.shield(patience)
            )
            if self._left and not patience.done():
                return True  # or it is stopping
        except (SidecarError, OSError) as error:
            self._hook(StepDone(CUT, self._clock.now() - began, str(error)))
        else:
            await self._cut_while_withdrawn(verdict, began)
        finally:
            patience.cancel()
        return verdict.value.serving

    async def _had_its_time(self, verdict: Latest[Verdict], began: float) -> None:
        """Return when the time to cut has come, for a withdrawal that began at `began`."""
        rules, hung = self.rules, None
        while True:
            seen, now, end = verdict.version, self._clock.now(), float("inf")
            if rules.cut:
                end = began + rules.timeout
            if verdict.value.reason not in HUNG:
                hung = None
            elif rules.cut_hung_after is not None:
                hung = now if hung is None else hung
                end = min(end, hung + rules.cut_hung_after)
            if now >= end:
                return
            pause = None if end == float("inf") else end - now
            await first_of(self._clock, pause, verdict.changed(seen))

    async def _cut_while_withdrawn(self, verdict: Latest[Verdict], began: float) -> None:
        """Cut, again if that timed out. Each failure is reported."""
        pause = _FIRST
        while _withdrawn(verdict.value):
            try:
                if self._cuts:  # the rules may have been reloaded
                    await self._cut_left()
                return
            except (SidecarError, OSError) as error:
                self._hook(StepDone(CUT, self._clock.now() - began, str(error)))
                if not isinstance(error, Unavailable):
                    return
            await first_of(self._clock, pause, _over(verdict))
            pause = min(2 * pause, _MOST)


def _withdrawn(verdict: Verdict) -> bool:
    return not verdict.serving and verdict.state is not State.DRAINING


async def _over(verdict: Latest[Verdict]) -> None:
    """Return when the instance serves again, or is stopping."""
    async for now in verdict:
        if not _withdrawn(now):
            return
