"""Drills' scenarios of Consul, hosts, networks and operators, on a cluster of three hosts."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from sidecar.drill.cluster.layout import Overrides
from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.cluster.start import MODELS, cluster
from sidecar.drill.misbehaving_models import CACHED, MORTAL, UNARY
from sidecar.drill.scenario import Scenario
from sidecar.drill.scenarios import (
    consul,
    hosts,
    load,
    machines,
    models,
    operations,
    pairs,
    processes,
)
from sidecar.drill.series import for_a_moment, on_standby
from tests.support.drills import drilled, unexplained_changes
from tests.support.soak import SOAK, soak

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

# A minute without Consul shows what ten seconds do.
_LONGEST = 60.0 if SOAK else 10.0
# Of each kind one; tests/integration/mesh has what needs no hosts of its own.
_CHOSEN = {
    "consul-leader-killed", "consul-gone", "cut-from-consul", "cut-from-envoy",
}  # fmt: skip
_OF_MODELS = {"cached-answers", "gpu-memory"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ClusterStage]:
    folder = tmp_path_factory.mktemp("cluster")
    further = (UNARY, CACHED) if SOAK else ()
    # No fault is a relapse of the one before, after which an instance is unhealthy for longer.
    settings = Overrides({"health": {"max_hold": "2s"}})
    async with cluster(
        folder, settings=settings, models=(*MODELS, MORTAL, *further), clocks=SOAK
    ) as running:
        yield running


def scenarios() -> list[Any]:
    known: list[Scenario[Any]] = [*consul.SCENARIOS, *hosts.SCENARIOS, *processes.SCENARIOS]
    # What other models do wrong is in test_mesh_faults.py.
    hidden = [each for each in models.SCENARIOS if each.name in _OF_MODELS]
    further: list[Scenario[Any]] = [*load.SCENARIOS, *machines.SCENARIOS, *hidden, *pairs.SCENARIOS]
    usual = [
        pytest.param(each, id=each.name, marks=() if each.name in _CHOSEN else soak)
        for each in (*known, *operations.SCENARIOS)
    ]
    cut = next(each for each in consul.SCENARIOS if each.name == "cut-from-consul")
    return [
        *usual,
        *(pytest.param(each, id=each.name, marks=soak) for each in further),
        pytest.param(for_a_moment(cut), id=f"{cut.name}, for a moment", marks=soak),
        *(
            pytest.param(on_standby(each), id=f"{each.name}, a standby", marks=soak)
            for each in known
            if each.victim == "primary"
        ),
    ]


@pytest.mark.parametrize("scenario", scenarios())
async def test_a_fault_fails_no_request(stage: ClusterStage, scenario: Scenario[Any]) -> None:
    shorter = scenario.lasting(min(scenario.lasts, _LONGEST))
    run = await drilled(stage, shorter)
    assert run.violations == ()
    assert run.status == "passed"
    assert await unexplained_changes(stage, [run]) == []
