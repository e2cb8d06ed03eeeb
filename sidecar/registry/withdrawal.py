"""What is in flight on an instance that gets nothing new: waited for, and in the end cut.

An instance is withdrawn by an orderly stop, by maintenance, or by a verdict against it. Envoy then
sends it nothing new, and ends nothing that it has there. What is stuck in one that hangs would wait
for ever; it can be cut much sooner than what is only long.
Why so: docs/decisions/0046-connections-of-a-hung-triton-are-reset.md.
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
# Seconds between attempts at what did not end in time: the first time, and at most.
_FIRST, _MOST = 2.0, 60.0


class Withdrawal:
    """One instance's. `idle` returns when it has nothing in flight, `cut` resets what it has."""

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
        """Reset what the last `drain` has left, if settings say so.

        Raises:
            SidecarError: it cannot be.
        """
        if self.rules.cut:
            await self._cut_left()

    async def _cut_left(self) -> None:
        if self._left and (count := await self._cut()):
            self._hook(ConnectionsReset(count))

    async def watch(self, verdict: Latest[Verdict]) -> None:
        """Wait, then cut, each time that the instance has stopped serving.

        Once for each time. An orderly stop has steps of its own.
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
        """See one withdrawal to its end; gives whether the instance has served again by then."""
        began = self._clock.now()
        patience = asyncio.ensure_future(self._had_its_time(verdict, began))
        try:
            await first_of(
                self._clock, None, self.drain(), _over(verdict), asyncio.shield(patience)
            )
            if self._left and not patience.done():
                return True  # or it is told to stop
        except (SidecarError, OSError) as error:
            self._hook(StepDone(CUT, self._clock.now() - began, str(error)))
        else:
            await self._cut_while_withdrawn(verdict, began)
        finally:
            patience.cancel()
        return verdict.value.serving

    async def _had_its_time(self, verdict: Latest[Verdict], began: float) -> None:
        """Return when what is in flight since a withdrawal began is to be cut."""
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
        """Cut, anew if that did not end in time. What is in the way is told each time."""
        pause = _FIRST
        while _withdrawn(verdict.value):
            try:
                if self._cuts:  # it may have been set otherwise meanwhile
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
    """Return when the instance serves again, or is told to stop."""
    async for now in verdict:
        if not _withdrawn(now):
            return
