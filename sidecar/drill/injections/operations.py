"""What operators do, well or badly: orders through our own commands, and edits in Consul.

Acts: asyncio, signal.
"""

import asyncio
import base64
import json
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from sidecar.drill.stage import undo
from sidecar.drill.stage.dead_mans_switch import undone_at_the_end
from sidecar.drill.stage.mesh import MeshStage
from sidecar.drill.stage.waiting import until
from sidecar.local.planning.plan import SERVICE
from sidecar.runtime.errors import NotFound, Rejected
from sidecar.traffic.document import policy_key

_UNREADABLE = {"mode": ["no", "such", "mode"]}
_REASON = "--reason=a drill"
_LARGEST = 1 << 16  # bytes of a policy that a command can write back
_WITHDRAWN = 10.0  # seconds, each, for a cancelled command and for the end of its order


async def command(stage: MeshStage, *arguments: str) -> str:
    """Run `triton-sidecar` on the mesh to its end; gives its output.

    If it is cancelled, the command gets SIGINT, as from Ctrl-C.

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
        await _interrupted(process)
    if process.returncode:
        raise Rejected(f"`{' '.join(arguments)}` failed: {output.decode().strip()}")
    return output.decode()


async def _interrupted(process: asyncio.subprocess.Process) -> None:
    """End a command that runs still: as by Ctrl-C, or, if it does not end, by SIGKILL."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(_WITHDRAWN):
            await process.communicate()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            process.kill()


@asynccontextmanager
async def switched_over(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """A planned switchover to the best candidate."""
    await _switch_over(stage)
    yield


@asynccontextmanager
async def switchover_tried(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """A planned switchover that may fail, because something else happens to it."""
    with suppress(Rejected):
        await _switch_over(stage)
    yield


async def _switch_over(stage: MeshStage) -> None:
    """Order a switchover, and wait for its end.

    If it is cancelled, the order is withdrawn, so that the role does not move later.

    Raises:
        Rejected: it failed.
    """
    try:
        await command(stage, "switchover", _REASON)
    except asyncio.CancelledError:
        with suppress(Rejected, TimeoutError):  # then it lapses
            async with asyncio.timeout(_WITHDRAWN):
                await command(stage, "flush", "switchover")
        raise


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
    """Somebody writes a policy that cannot be read straight into Consul.

    The one from before, if there was one, is written back byte by byte.

    Raises:
        Rejected: it is too large for that; nothing was written.
    """
    path = f"kv/{policy_key(SERVICE)}"
    async with undone_at_the_end(await _as_now(stage, path)):
        await stage.consul("PUT", path, _UNREADABLE)
        yield


async def _as_now(stage: MeshStage, path: str) -> Sequence[str]:
    """The command that gives a key in Consul its present value, or removes it."""
    try:
        [stored] = json.loads(await stage.consul("GET", path))
    except NotFound:
        return undo.consul(stage, "DELETE", path)
    value = base64.b64decode(stored["Value"] or "")
    if len(value) > _LARGEST:
        raise Rejected(f"{path} has {len(value)} bytes, expected at most {_LARGEST}")
    return undo.consul(stage, "PUT", f"{path}?flags={stored['Flags']}", value)
