"""A soak of one fault, with what is judged at its end."""

from pathlib import Path

import pytest

from sidecar.drill.conduct import Conditions
from sidecar.drill.load.spec import OpenLoop
from sidecar.drill.record import SOAK, Record
from sidecar.drill.scenarios import catalog
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
