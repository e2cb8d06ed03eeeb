"""`drill run --live` on a real mesh: permitted, not permitted, and ended in the middle."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.drill.record import Record, Run
from sidecar.drill.report import files
from sidecar.election.keys.history import DrillEntry
from sidecar.injection.rules import Code
from sidecar.operator import operator_client
from tests.support.frozen import state
from tests.support.live_drill import operator
from tests.support.mesh.mesh import LiveMesh
from tests.support.mesh.mesh_outside import ROOT, sidecar, until
from tests.support.soak import soak

pytestmark = pytest.mark.integration

ENVIRONMENT = {
    "TRITON_SIDECAR_DRILL__ALLOW": '["freeze"]',
    # What is frozen has to be thawed, not killed.
    "TRITON_SIDECAR_RECOVERY__DRY_RUN": "true",
}
# Machines are shared: tests assert outcomes, not how long they took.
UNTIMED = """
detection = "9m"
rto = "9m"
longest_gap = "9m"
recovered = "180s"
"""


def live(mesh: LiveMesh, folder: Path, *scenarios: str) -> list[str]:
    """The command line of drills on the mesh, which it finds as any other live one."""
    slo = folder.with_suffix(".toml")
    slo.write_text(UNTIMED)
    config = mesh.folder / mesh.now.instances[0].id / "sidecar.toml"
    place = f"--config={config}", f"--envoy={mesh.now.envoy.grpc}"
    load = f"--slo={slo}", "--load=rate=10,streams=1", f"--report={folder}"
    return ["drill", "run", *scenarios, "--live", "--yes", *place, *load]


def made(folder: Path) -> tuple[Record, dict[str, Run]]:
    """The record of a report, and its runs by scenario."""
    record = files.read(folder)
    return record, {run.scenario: run for run in record.runs}


async def past(mesh: LiveMesh) -> tuple[DrillEntry, ...]:
    async with operator(mesh.now.consul.http) as client:
        return (await operator_client.read_history(client, 20)).drills


async def test_what_is_permitted_passes_and_the_rest_is_skipped(
    mesh: LiveMesh, tmp_path: Path
) -> None:
    await mesh.steady()
    victim, folder = await mesh.primary(), tmp_path / "report"
    scenarios = ("crash", "freeze", "switchover", "consul-gone")
    done = sidecar(*live(mesh, folder, *scenarios), check=True)
    assert str(folder / files.PAGE) in done.stdout
    assert {each.name for each in folder.iterdir()} >= {files.RECORD, files.JUNIT, files.PAGE}
    record, runs = made(folder)
    assert {run.scenario: (run.status, run.code) for run in record.runs} == {
        "crash": ("skipped", Code.NOT_PERMITTED),
        "freeze": ("passed", ""),
        "switchover": ("passed", ""),
        "consul-gone": ("skipped", "needs"),
    }
    frozen = runs["freeze"]
    assert frozen.victim == victim
    assert {"injected", "verdict", "primary", "published", "acked", "restored", "recovered"} <= {
        mark.event for mark in frozen.marks
    }
    figures = frozen.figures
    assert (figures.failed, figures.wrong) == (0, 0)
    assert figures.sent > 0
    assert figures.rto is not None
    entries = await past(mesh)
    assert [(each.scenario, each.outcome) for each in entries] == [
        ("freeze", "done"),
        ("switchover", "done"),
    ]
    await mesh.steady()


@pytest.mark.parametrize(
    ("number", "status", "outcome"),
    [
        pytest.param(signal.SIGTERM, 130, "aborted", id="SIGTERM"),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, "", id="SIGKILL", marks=soak),
    ],
)
async def test_the_end_of_the_command_in_the_middle_undoes_the_fault(
    mesh: LiveMesh, tmp_path: Path, number: signal.Signals, status: int, outcome: str
) -> None:
    await mesh.steady()
    victim = await mesh.primary()
    pid, before = mesh.pid(victim), len(await past(mesh))
    with command(live(mesh, tmp_path / "report", "freeze")) as process:
        await until(lambda: state(pid) == "T", f"{victim} is frozen")
        process.send_signal(number)
        await until(lambda: process.poll() is not None, "the command has ended")
        assert process.returncode == status
        assert (state(pid) == "T") is (number == signal.SIGKILL)
    await until(lambda: state(pid) != "T", f"{victim} is thawed")
    await mesh.steady()
    assert not mesh.restarted(victim, pid)
    [entry] = (await past(mesh))[before:]
    assert (entry.scenario, entry.outcome) == ("freeze", outcome)


@contextmanager
def command(arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-m", "sidecar", *arguments], cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()
