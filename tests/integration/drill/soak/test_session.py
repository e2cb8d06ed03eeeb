"""A soak of one fault, with what is judged at its end, and one in which everything goes wrong."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidecar.drill.cluster.layout import EDGE
from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.conduct import Conditions
from sidecar.drill.load.spec import OpenLoop
from sidecar.drill.record import SOAK, Record
from sidecar.drill.scenario import Scenario
from sidecar.drill.scenarios import catalog
from sidecar.drill.soak import receiver, session
from sidecar.drill.soak.session import OBJECTIVES, Soak, hold
from tests.support.soak import soak


@soak
@pytest.mark.integration
async def test_a_soak_judges_each_fault_and_the_whole(tmp_path: Path) -> None:
    records: list[Record] = []
    record = await hold(
        Soak(
            catalog.select(["crash"]),
            seconds=1.0,
            first=3,
            folder=tmp_path,
            objectives=OBJECTIVES,
            conditions=Conditions(OpenLoop(20.0), seed=7, tell=print),
            recorded=records.append,
        )
    )
    assert [(run.scenario, run.round) for run in record.runs] == [("crash", 3), (SOAK, 3)]
    assert [run.violations for run in record.runs] == [(), ()]
    assert record.passed
    assert not any(run.samples for run in record.runs)
    assert records[-1] == record
    names = {each.name for each in record.processes}
    assert {"drill", "envoy", "xds", "server-0", "triton-0", "sidecar-0"} <= names


@asynccontextmanager
async def _everything_violated(stage: ClusterStage, victim: str) -> AsyncIterator[None]:
    """Fail requests, and leave behind what a soak has to find."""
    [prefix, *_] = [part.shm_prefix for _, part in stage.layout.parts if part.shm_prefix]
    (Path("/dev/shm") / f"{prefix}left").touch()
    await stage.consul("PUT", "kv/left", 1)
    edge = stage.namespaces.enter(EDGE)
    url = receiver.SETTINGS["documents"]["url"]  # type: ignore[index]
    posts = "import sys, urllib.request as r; r.urlopen(sys.argv[1], b'no document')"
    await asyncio.to_thread(subprocess.run, [*edge, sys.executable, "-c", posts, url], check=True)
    with stage.away("envoy"):
        await asyncio.sleep(5.0)
        yield


@soak
@pytest.mark.integration
async def test_a_soak_finds_what_is_violated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_SETTLES", 10.0)
    scenario = Scenario("broken", "everything broken", "", _everything_violated, victim="mesh")
    record = await hold(
        Soak(
            [scenario],
            seconds=1.0,
            first=1,
            folder=tmp_path,
            objectives=OBJECTIVES,
            conditions=Conditions(OpenLoop(20.0), seed=7, tell=print),
            recorded=lambda record: None,
        )
    )
    fault, whole = record.runs
    assert "failed" in {each.code for each in fault.violations}
    assert {each.code for each in whole.violations} >= {
        "leaked_shared_memory",
        "leaked_consul_entries",
        "malformed_notifications",
    }
    assert not record.passed
    assert (tmp_path / "logs" / "xds.log").exists()
