"""What operators do, well or badly: orders through our own commands, and edits in Consul.

Acts: asyncio, signal.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sidecar.drill.stage import undo
from sidecar.drill.stage.dead_mans_switch import undone_at_the_end
from sidecar.drill.stage.mesh import MeshStage
from sidecar.drill.stage.waiting import until
from sidecar.local.planning.plan import SERVICE
from sidecar.runtime.errors import Rejected
from sidecar.traffic.document import policy_key

_UNREADABLE = {"mode": ["no", "such", "mode"]}
_REASON = "--reason=a drill"


async def command(stage: MeshStage, *arguments: str) -> str:
    """Run `triton-sidecar` on the mesh to its end; gives its output.

    Raises:
        Rejected: it failed; the message is its output.
    """
    command_line, env = stage.command_line(*arguments)
    process = await asyncio.create_subprocess_exec(
        *command_line,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise Rejected(f"`{' '.join(arguments)}` failed: {output.decode().strip()}")
    return output.decode()


@asynccontextmanager
async def switched_over(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """A planned switchover to the best candidate."""
    await command(stage, "switchover", _REASON)
    yield


@asynccontextmanager
async def switchover_tried(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """A planned switchover that may fail, because something else happens to it."""
    with suppress(Rejected):
        await command(stage, "switchover", _REASON)
    yield


@asynccontextmanager
async def maintained(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """The instance is in Consul's maintenance mode, as with `consul maint`."""
    ending = undo.consul(stage, "PUT", f"agent/service/maintenance/{victim}?enable=false")
    # A cluster, where each host has an agent of its own, ends with the drill.
    async with undone_at_the_end(*(() if "hosts" in stage.offers else (ending,))):
        await stage.maintain(victim, True)
        try:
            yield
        finally:
            await stage.maintain(victim, False)


@asynccontextmanager
async def restarted_one_by_one(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """Every sidecar is restarted gracefully, the next one when all are healthy again."""
    for instance in stage.now.instances:
        part = stage.sidecar_of(instance.id)
        before = stage.signal(part, signal.SIGTERM)
        await until(lambda: stage.running(part) not in (None, before), f"a new {part}")  # noqa: B023
        await stage.steady()
    yield


@asynccontextmanager
async def bad_policy(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """Somebody writes a policy that cannot be read straight into Consul."""
    path = f"kv/{policy_key(SERVICE)}"
    async with undone_at_the_end(undo.consul(stage, "DELETE", path)):
        await stage.consul("PUT", path, _UNREADABLE)
        yield
