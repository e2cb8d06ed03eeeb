"""Every fault of a live drill through the real command, and what runs it each month."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.drill.live import scenarios
from sidecar.drill.record import Run
from sidecar.drill.report import files
from sidecar.injection.rules import Fault
from sidecar.operator import operator_client
from tests.support.drills import not_late
from tests.support.live_drill import operator
from tests.support.mesh.mesh import LiveMesh
from tests.support.mesh.mesh_outside import ROOT, until
from tests.support.nomad_task import rendered
from tests.support.soak import soak

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900), soak]

ALLOWED = [fault.value for fault in Fault]
ENVIRONMENT = {"TRITON_SIDECAR_DRILL__ALLOW": str(ALLOWED).replace("'", '"')}
# Machines are shared: tests assert outcomes, not how long they took.
UNTIMED = 'detection = "9m"\nrto = "9m"\nlongest_gap = "9m"\nrecovered = "180s"\n'


def started(arguments: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sidecar", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | env)


def command(mesh: LiveMesh, scenario: str, folder: Path) -> list[str]:
    slo = folder.with_suffix(".toml")
    slo.write_text(UNTIMED)
    config = mesh.folder / mesh.now.instances[0].id / "sidecar.toml"
    place = f"--config={config}", f"--envoy={mesh.now.envoy.grpc}"
    how = f"--slo={slo}", "--load=rate=10,streams=1", f"--report={folder}"
    return ["drill", "run", scenario, "--live", "--yes", *place, *how]


async def ended(process: subprocess.Popen[bytes]) -> int:
    return await asyncio.to_thread(process.wait)


def moments(run: Run) -> list[float]:
    """When the fault was ordered, caused, and undone."""
    return [m.at for m in run.marks if m.event in ("ordered", "injected", "restored")]


@pytest.mark.parametrize("scenario", [*ALLOWED, scenarios.SWITCHOVER])
async def test_each_live_scenario_passes(mesh: LiveMesh, scenario: str, tmp_path: Path) -> None:
    await mesh.steady()
    folder = tmp_path / "report"
    with started(command(mesh, scenario, folder), {}) as process:
        assert await ended(process) == 0
    [run] = files.read(folder).runs
    assert (run.status, run.violations) == ("passed", ())
    assert (run.figures.failed, run.figures.wrong) == (0, 0)
    assert len(moments(run)) == 3
    assert moments(run) == sorted(moments(run))
    async with operator(mesh.now.consul.http) as client:
        newest = (await operator_client.read_history(client, 20)).drills[-1]
    assert (newest.scenario, newest.outcome) == (scenario, "done")


async def test_the_task_of_the_nomad_job_drills(mesh: LiveMesh, tmp_path: Path) -> None:
    async def free() -> bool:
        async with operator(mesh.now.consul.http) as client:
            return (await operator_client.read_status(client)).drill is None

    await until(free, "no drill runs")
    await mesh.steady()
    task = rendered(ROOT / "deploy/nomad/drill.nomad.hcl", tmp_path, "no-token")
    program, *arguments = task.command
    assert program.endswith("/triton-sidecar")
    arguments[arguments.index("--envoy") + 1] = mesh.now.envoy.grpc
    env = {**task.env, "CONSUL_HTTP_ADDR": mesh.now.consul.http}
    del env["CONSUL_HTTP_TOKEN_FILE"]  # this mesh has no ACLs
    with started(arguments, env) as process:
        assert await ended(process) in (0, 1)  # 1: it was late
    runs = files.read(tmp_path / "alloc/data/drill").runs
    made = [run for run in runs if run.status != "skipped"]
    assert {run.scenario for run in made} == {*ALLOWED, scenarios.SWITCHOVER}
    assert {run.status for run in made} <= {"passed", "failed"}
    assert [each for run in made for each in not_late(run)] == []
    assert sum(run.figures.failed + run.figures.wrong for run in made) == 0
    await mesh.steady()
