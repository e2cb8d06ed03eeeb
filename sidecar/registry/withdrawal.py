"""What is in flight on an instance that gets nothing new: waited for, and in the end cut.

An instance is withdrawn by an orderly stop, by maintenance, or by a verdict against it. Envoy then
sends it nothing new, and ends nothing that it has there.
"""

from collections.abc import Awaitable, Callable

from sidecar.clock import Clock
from sidecar.errors import SidecarError, Unavailable
from sidecar.events import ConnectionsCut, Hook, StepDone
from sidecar.health.verdict import State, Verdict
from sidecar.latest import Latest, first_of
from sidecar.settings.tables import DrainSettings

CUT = "cut what is left"
# Seconds between attempts at what did not end in time: the first time, and at most.
_FIRST, _MOST = 2.0, 60.0


class Withdrawal:
    """One instance's. `idle` returns when it has nothing in flight, `cut` resets what it has."""

    def __init__(
        self,
        settings: DrainSettings,
        idle: Callable[[], Awaitable[None]],
        cut: Callable[[], Awaitable[int]],
        clock: Clock,
        hook: Hook,
    ) -> None:
        self.settings = settings
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
        if self._left and self.settings.cut and (count := await self._cut()):
            self._hook(ConnectionsCut(count))

    async def watch(self, verdict: Latest[Verdict]) -> None:
        """Wait, then cut, each time that the instance has stopped serving.

        Once for each time. An orderly stop has steps of its own.
        """
        served = False
        async for now in verdict:
            if now.serving:
                served = True
            elif self.settings.cut and served and _withdrawn(now):
                served = await self._outlast(verdict)

    async def _outlast(self, verdict: Latest[Verdict]) -> bool:
        """See one withdrawal to its end; gives whether the instance has served again by then."""
        began, timeout = self._clock.now(), self.settings.timeout
        try:
            await first_of(self._clock, timeout, self.drain(), _over(verdict))
            if self._left and self._clock.now() < began + timeout:
                return True  # or it is told to stop
        except (SidecarError, OSError) as error:
            self._hook(StepDone(CUT, self._clock.now() - began, str(error)))
        else:
            await self._cut_while_withdrawn(verdict, began)
        return verdict.value.serving

    async def _cut_while_withdrawn(self, verdict: Latest[Verdict], began: float) -> None:
        """Cut, anew if that did not end in time. What is in the way is told each time."""
        pause = _FIRST
        while _withdrawn(verdict.value):
            try:
                await self.cut()
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
