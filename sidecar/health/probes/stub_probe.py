"""The probe of the stub processes in which Triton's Python backend runs models.

Acts: asyncio.
"""

import asyncio
from collections.abc import AsyncIterator

from sidecar.health.probes.server_probe import ProbeContext
from sidecar.runtime.latest import first_of
from sidecar.triton.python_stubs_api import Stub, StubsApi


class StubProbe:
    """Scans for stubs; `seen` is the result of the last scan, None where stubs cannot be seen."""

    def __init__(self, stubs: StubsApi | None, context: ProbeContext) -> None:
        self.seen: tuple[Stub, ...] | None = None
        self._stubs = stubs
        self._context = context
        self._hanging: asyncio.Future[tuple[Stub, ...] | None] | None = None
        self._scanned = asyncio.Event()
        if stubs is None:
            self._scanned.set()

    @property
    def possible(self) -> bool:
        """Whether stubs can be looked up at all."""
        return self._stubs is not None

    async def scanned_once(self) -> None:
        """Return after the first scan by `ends`; a stub that dies before it was never seen."""
        await self._scanned.wait()

    async def scan(self) -> tuple[Stub, ...] | None:
        """The stubs that run now. The kernel may block a scan of a process that hangs in it."""
        if self._stubs is None or not (self._hanging is None or self._hanging.done()):
            self.seen = None
            return None
        scanning = asyncio.ensure_future(self._stubs.scan())
        try:
            async with asyncio.timeout(self._context.rules.value.model_timeout):
                self.seen = await asyncio.shield(scanning)
        except TimeoutError:
            self.seen, self._hanging = None, scanning
        return self.seen

    async def ends(self) -> AsyncIterator[bool]:
        """Scan at the interval of models and when a stub ends; yields whether one has ended."""
        if self._stubs is None:
            return
        before: set[int] = set()
        try:
            while True:
                found = await self.scan()
                self._scanned.set()
                now = {stub.pid for stub in found or ()}
                yield found is not None and not before <= now
                before = now
                interval = self._context.rules.value.every.model
                await first_of(self._context.clock, interval, self._stubs.ended())
        finally:
            self._stubs.close()
