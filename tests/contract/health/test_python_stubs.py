"""A hanging scan for Triton's Python stubs, on the real clock."""

import asyncio

from sidecar.triton.python_stubs_api import Stub
from sidecar.verdict.evidence import Reason
from tests.support.prober_bench import SETTINGS, FakeStubs, probing


async def test_a_hanging_scan_does_not_block_the_event_loop() -> None:
    """The kernel may block the scan of a process that hangs in a system call."""

    class Hanging(FakeStubs):
        scans = 0

        async def scan(self) -> tuple[Stub, ...] | None:
            self.scans += 1
            await asyncio.Event().wait()
            return None

    stubs = Hanging(Stub(7, "chat", "chat_0_0"))
    settings = SETTINGS.model_copy(update={"model_timeout": 0.01})
    async with probing(settings=settings, stubs=stubs) as bench:
        await bench.pass_(5)
        async with asyncio.timeout(30):
            while bench.verdict.reason is not Reason.OK:
                await asyncio.sleep(0.02)
                await bench.pass_(1)
        assert stubs.scans == 1
