"""The promotion of a cold standby: loads the models, proves them, and unloads them later.

Acts: asyncio.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from sidecar.election.rules import PromotionRules
from sidecar.events import Hook, Promoted
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import NotAdmitted, Rejected, SidecarError
from sidecar.runtime.latest import Latest, first_of
from sidecar.triton.api import TritonApi

_REQUEST = 10.0  # seconds for requests other than loading
_READY = "READY"
# Seconds between attempts to unload a model: at first, and at most.
_FIRST, _MOST = 1.0, 30.0


class Phase(Enum):
    """The state of a cold standby. While FAILED, for `pause`, it does not stand for election."""

    UNKNOWN = "it checks whether its models are loaded"
    COLD = "its models are not loaded"
    LOADING = "it is loading its models"
    PROVING = "its models are loaded but have not passed yet"
    WARM = "it serves, or can at once"
    FAILED = "its promotion failed"


@dataclass(frozen=True, slots=True)
class ColdModels:
    """The models that a cold standby loads, and the calls around that.

    `triton` is the server, in explicit mode; `names` are in loading order. `ask` runs each canary
    once, whatever it answers. `verify` returns what is wrong with the loaded model set, or "".
    `idle` waits until nothing is in flight on the instance, or until its deadline. `unloaded` is
    called after models were unloaded, all or perhaps only some: what is loaded must be read again.
    """

    triton: TritonApi
    names: Sequence[str]
    ask: Callable[[], Awaitable[object]]
    verify: Callable[[], Awaitable[str]]
    idle: Callable[[], Awaitable[None]]
    unloaded: Callable[[], None]


@dataclass(frozen=True, slots=True)
class PromotionCells:
    """The cells that a promotion follows.

    `holds`: the instance holds the lock. `serving`: it takes requests, as Consul has confirmed.
    `keeps`: it keeps serving without the role, until another instance serves or a primary is known.
    `restarts` counts Triton's restarts.
    """

    holds: Latest[bool]
    serving: Latest[bool]
    keeps: Latest[bool]
    restarts: Latest[int]


class Promotion:
    """Runs until cancelled; the owner reads `phase` and `why`, and writes the cells.

    Args:
        models: what is loaded.
        cells: what is followed.
        rules: deadline, pause, and whether to unload.
        clock: times the promotion.
        hook: gets an event for each result.
    """

    def __init__(
        self,
        models: ColdModels,
        cells: PromotionCells,
        rules: PromotionRules,
        clock: Clock,
        hook: Hook,
    ) -> None:
        self.phase: Latest[Phase] = Latest(Phase.UNKNOWN)
        self.why = ""
        self._models = models
        self._cells = cells
        self._rules = rules
        self._clock = clock
        self._hook = hook

    async def run(self) -> None:
        """Follow the role, forever."""
        # The sidecar may have started next to models in use.
        self.phase.set(Phase.WARM if await self._all_loaded() else Phase.COLD)
        cells = self._cells
        holds, keeps, restarts = cells.holds, cells.keeps, cells.restarts
        while True:
            seen = holds.version, keeps.version, restarts.version
            if not holds.value:
                await self._rest()
            elif self.phase.value is not Phase.WARM:
                await self._promote()
            await first_of(
                self._clock,
                None,
                holds.changed(seen[0]),
                keeps.changed(seen[1]),
                restarts.changed(seen[2]),
            )

    async def _rest(self) -> None:
        """Without the role: unload if configured, and notice when Triton has lost its models."""
        if self.phase.value is Phase.WARM:
            if self._rules.unload and not self._cells.keeps.value:
                await self._chill()
            elif not await self._all_loaded():
                self._models.unloaded()
                self.phase.set(Phase.COLD)

    async def _gone(self) -> None:
        """Wait until the role is lost."""
        async for holds in self._cells.holds:
            if not holds:
                return

    async def _promote(self) -> None:
        """Load, warm up and pass within the deadline, or release the role and pause."""
        began, error = self._clock.now(), ""
        self.phase.set(Phase.LOADING)
        work = asyncio.ensure_future(self._load_and_prove())
        gone = asyncio.ensure_future(self._gone())
        try:
            await first_of(self._clock, self._rules.timeout, asyncio.shield(work), gone)
        except SidecarError as failure:
            error = str(failure)
        finally:
            gone.cancel()
        lost = False
        if not error and not work.done():
            lost = not self._cells.holds.value
            within = f"timed out after {self._rules.timeout:g} s"
            error = "the role was lost in the meantime" if lost else within
        await _end(work)
        self._hook(Promoted(self._clock.now() - began, error))
        if not error:
            self.phase.set(Phase.WARM)
        elif lost:
            await self._chill()  # no failure of the promotion
        else:
            await self._fail(error)

    async def _load_and_prove(self) -> None:
        timeout = self._rules.timeout
        for model in self._models.names:
            await self._models.triton.load_model(model, timeout)
        for _ in range(self._rules.warm_up):
            await self._models.ask()
        self.phase.set(Phase.PROVING)  # the probes decide from here on
        async for serving in self._cells.serving:
            if serving:
                break
        if why := await self._models.verify():
            raise Rejected(why)

    async def _fail(self, error: str) -> None:
        self.why = f"its promotion failed: {error}"
        self.phase.set(Phase.FAILED)
        await self._gone()
        await self._unload()
        await self._clock.sleep(self._rules.pause)
        self.why = ""
        self.phase.set(Phase.COLD)

    async def _chill(self) -> None:
        """Stop taking requests, let those in flight end, then unload."""
        self.phase.set(Phase.COLD)
        await self._models.idle()
        if not self._cells.holds.value:
            await self._unload()

    async def _unload(self) -> None:
        """Unload every model, with retries, until the role is held again.

        Some may then be unloaded, because an attempt without an answer proves nothing.
        """
        reported: set[str] = set()
        left, pause, seen = list(reversed(self._models.names)), _FIRST, self._cells.holds.version
        while left := [model for model in left if not await self._is_unloaded(model, reported)]:
            await first_of(self._clock, pause, self._cells.holds.changed(seen))
            if self._cells.holds.version != seen:
                break  # it will load them again
            pause = min(2 * pause, _MOST)
        self._models.unloaded()

    async def _is_unloaded(self, model: str, reported: set[str]) -> bool:
        """Unload a model; False if another attempt may help. Each obstacle is reported once."""
        try:
            await self._models.triton.unload_model(model, self._rules.timeout)
        except SidecarError as error:
            if model not in reported:
                reported.add(model)
                self._hook(Promoted(0.0, f"{model} stays loaded: {error}"))
            return isinstance(error, Rejected)
        return True

    async def _all_loaded(self) -> bool:
        """Whether every model is loaded; retries until Triton answers.

        A Triton that does not admit the request counts as no: loading will show the truth.
        """
        while True:
            try:
                index = await self._models.triton.repository_index(_REQUEST)
            except NotAdmitted:
                return False
            except SidecarError:
                await self._clock.sleep(self._clock.jitter(1.0, 0.5))
                continue
            loaded = {entry.name for entry in index if entry.state == _READY}
            return loaded.issuperset(self._models.names)


async def _end(work: asyncio.Future[None]) -> None:
    """Cancel work that may be done, failed or running, and wait for its end."""
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
