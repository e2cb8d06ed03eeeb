"""A drill of a running mesh that is killed or interrupted leaves no fault behind."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.drill.misbehaving_models import UNARY as FAULTY
from sidecar.local.planning.plan import SERVICE
from sidecar.runtime.errors import Rejected
from sidecar.traffic.document import policy_key
from tests.support.frozen import state
from tests.support.mesh.mesh import LiveMesh
from tests.support.mesh.mesh_outside import ROOT, until
from tests.support.soak import soak

pytestmark = pytest.mark.integration

MESH = (f"--models={ROOT / 'triton_models' / FAULTY}",)
# Nothing but the dead man's switch removes a fault.
ENVIRONMENT = {"TRITON_SIDECAR_RECOVERY__DRY_RUN": "true"}
# Causes a scenario's fault to an instance of the mesh in a folder, says so, and waits.
_DRILL = """
import asyncio, sys
from pathlib import Path
from sidecar.drill.scenarios import catalog
from sidecar.drill.session import interruptible
from sidecar.drill.stage.mesh import MeshStage
async def main(folder, name, victim):
    [scenario] = catalog.select([name])
    async with scenario.inject(MeshStage(Path(folder)), victim):
        print("on", flush=True)
        await asyncio.sleep(600)
asyncio.run(interruptible(main(*sys.argv[1:])))
"""
_SCENARIOS = ("stubs-frozen", "sidecar-frozen", "wrong-answers", "unloaded", "maintenance",
              "bad-policy")  # fmt: skip


@contextmanager
def drill(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A drill in a session of its own, as on a terminal of its own."""
    with subprocess.Popen(
        # Not as in a background job, where a shell or nohup has them ignored.
        ["env", "--default-signal=INT,HUP", sys.executable, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def undone(mesh: LiveMesh, victim: str) -> None:
    """Wait until nothing is left of any fault."""
    control = mesh.folder / victim / "models" / FAULTY / ".control.json"
    await until(lambda: not control.exists(), f"{FAULTY} behaves again")

    async def readable() -> bool:
        try:
            await mesh.consul("GET", f"kv/{policy_key(SERVICE)}")
        except Rejected:
            return True
        return False

    await until(readable, "the policy is gone")
    await mesh.steady()


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, signal.SIGHUP, pytest.param(signal.SIGINT, marks=soak)],
    ids=["SIGKILL", "SIGHUP", "SIGINT"],
)
async def test_a_drill_that_ends_in_the_middle_thaws_its_triton(
    mesh: LiveMesh, number: signal.Signals, tmp_path: Path
) -> None:
    await mesh.steady()
    victim = await mesh.primary()
    pid = mesh.pid(victim)
    flags = (
        f"--mesh={mesh.folder}",
        f"--report={tmp_path}",
        "--load=clients=2,streams=0,pause=50ms",
    )
    with drill("-m", "sidecar", "drill", "run", "freeze", *flags) as process:
        await until(lambda: state(pid) == "T", f"{victim} is frozen")
        os.killpg(process.pid, number)
        assert await asyncio.to_thread(process.wait) != 0
    await until(lambda: state(pid) != "T", f"{victim} is thawed")
    await mesh.steady()
    assert not mesh.restarted(victim, pid)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=soak)], ids=["SIGKILL", "SIGINT"]
)
@pytest.mark.parametrize("scenario", _SCENARIOS)
async def test_the_end_of_a_drill_undoes_its_fault(
    mesh: LiveMesh, scenario: str, number: signal.Signals
) -> None:
    await mesh.steady()
    victim = await mesh.primary()
    before = {part: mesh.pid(part) for part in (victim, mesh.sidecar_of(victim))}
    with drill("-c", _DRILL, str(mesh.folder), scenario, victim) as process:
        assert process.stdout
        assert await asyncio.to_thread(process.stdout.readline) == "on\n"
        os.killpg(process.pid, number)
        await asyncio.to_thread(process.wait)
    await undone(mesh, victim)
    assert [part for part, pid in before.items() if mesh.restarted(part, pid)] == []
