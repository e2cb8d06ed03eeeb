"""An operator of a real mesh, and a drill in a process of its own, to be killed."""

import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from sidecar.consul.access import ConsulAccess
from sidecar.consul.client import Consul
from sidecar.local.planning.plan import SERVICE
from sidecar.operator.operator_client import OperatorClient
from sidecar.runtime.clock import SystemClock

ROOT = Path(__file__).parents[2]
# It says when the fault is on, and waits.
_DRILL = """
import asyncio, sys
from sidecar.drill.live import live
from sidecar.injection.rules import Fault
from tests.support.live_drill import operator
async def main(address, victim):
    async with operator(address) as client:
        async with live.drill(client, "freeze", Fault.FREEZE, victim, seconds=60.0):
            print("on", flush=True)
            await asyncio.sleep(600)
asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def operator(address: str) -> AsyncIterator[OperatorClient]:
    """An operator of the mesh whose Consul has an address."""
    async with Consul(ConsulAccess(address=address)) as consul:
        planes, by, clock = "triton-sidecar-xds", "jane@desk", SystemClock()
        yield OperatorClient(consul, SERVICE, planes, "", by, clock, lambda: uuid.uuid4().hex)


@contextmanager
def drill_process(address: str, victim: str) -> Iterator[subprocess.Popen[str]]:
    """A process that freezes an instance of the mesh whose Consul has an address."""
    command = [sys.executable, "-c", _DRILL, address, victim]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
