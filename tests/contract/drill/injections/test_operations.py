"""What operators do, on a real Consul and with a command that takes long."""

import asyncio
import base64
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.drill.injections.operations import bad_policy, switched_over
from sidecar.drill.stage.mesh import MeshStage
from sidecar.local import meshfile
from sidecar.local.meshfile import ConsulAddresses, EnvoyAddresses, Mesh, XdsAddresses
from sidecar.local.planning.plan import SERVICE
from sidecar.runtime.errors import NotFound, Rejected
from sidecar.traffic.document import policy_key
from tests.support.consul_agent import ConsulAgent
from tests.support.mesh.mesh_outside import until

PATH = f"kv/{policy_key(SERVICE)}"
# Neither JSON nor UTF-8, and longer than what a pipe holds.
STORED = b"\xff\x00policy\n" * 7000
# Notes how it is called; a switchover takes until Ctrl-C, also in a job in the background.
_COMMAND = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
with open(sys.argv[1], "a") as seen:
    try:
        print(*sys.argv[2:], file=seen, flush=True)
        if sys.argv[2] == "switchover":
            time.sleep(600)
    except KeyboardInterrupt:
        print("interrupted", file=seen, flush=True)
        sys.exit(130)
"""
_DRILL = """
import asyncio, sys
from pathlib import Path
from sidecar.drill.injections.operations import bad_policy
from sidecar.drill.stage.mesh import MeshStage
async def main():
    async with bad_policy(MeshStage(Path(sys.argv[1])), ""):
        print("on", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture
def stage(tmp_path: Path, consul_agent: ConsulAgent) -> MeshStage:
    """A mesh of Consul alone."""
    consul = ConsulAddresses(consul_agent.http, "")
    mesh = Mesh(tmp_path, None, consul, EnvoyAddresses("", ""), XdsAddresses("", ""), ())
    (tmp_path / meshfile.NAME).write_text(meshfile.dumps(mesh))
    return MeshStage(tmp_path)


async def stored(stage: MeshStage) -> tuple[bytes, int] | None:
    try:
        [found] = json.loads(await stage.consul("GET", PATH))
    except NotFound:
        return None
    return base64.b64decode(found["Value"] or ""), found["Flags"]


async def test_the_policy_from_before_is_written_back(stage: MeshStage) -> None:
    await stage.consul("PUT", f"{PATH}?flags=7", STORED)
    try:
        async with bad_policy(stage, ""):
            assert await stored(stage) != (STORED, 7)
        assert await stored(stage) == (STORED, 7)
    finally:
        await stage.consul("DELETE", PATH)


async def test_the_policy_is_written_back_after_the_end_of_a_killed_drill(stage: MeshStage) -> None:
    await stage.consul("PUT", PATH, STORED)
    command = [sys.executable, "-c", _DRILL, str(stage.folder)]
    try:
        drill = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        try:
            assert drill.stdout
            assert await drill.stdout.readline() == b"on\n"
            assert await stored(stage) != (STORED, 0)
        finally:
            drill.kill()
            await drill.wait()

        async def as_before() -> bool:
            return await stored(stage) == (STORED, 0)

        await until(as_before, "the policy from before")
    finally:
        await stage.consul("DELETE", PATH)


async def test_without_a_policy_before_there_is_none_afterwards(stage: MeshStage) -> None:
    async with bad_policy(stage, ""):
        assert await stored(stage)
    assert await stored(stage) is None


async def test_a_policy_too_large_to_write_back_is_left(stage: MeshStage) -> None:
    large = STORED * 2
    await stage.consul("PUT", PATH, large)
    try:
        with pytest.raises(Rejected, match="bytes"):
            async with bad_policy(stage, ""):
                pass
        assert await stored(stage) == (large, 0)
    finally:
        await stage.consul("DELETE", PATH)


async def test_a_cancelled_switchover_withdraws_its_order(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    stage: Any = SimpleNamespace(
        command_line=lambda *arguments: (
            (sys.executable, "-c", _COMMAND, str(seen), *arguments),
            None,
        )
    )

    async def hold() -> None:
        async with switched_over(stage, "triton-0"):
            pass

    holding = asyncio.create_task(hold())
    await until(lambda: seen.exists() and seen.read_text(), "the switchover")
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert seen.read_text().splitlines() == [
        "switchover --reason=a drill",
        "interrupted",
        "flush switchover",
    ]
