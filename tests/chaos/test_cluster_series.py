"""A random series of faults on a cluster under load.

`CLUSTER_SEED=N` selects another series, `CLUSTER_SEED=random` draws one. A seed always gives the
same faults on the primary, or on a standby.
"""

import os
import random
from pathlib import Path
from typing import Any

import pytest

from sidecar.drill.cluster.start import cluster
from sidecar.drill.scenario import Scenario
from sidecar.drill.scenarios import consul, hosts, processes
from sidecar.drill.series import draw
from tests.support.drills import drilled, unexplained_changes
from tests.support.soak import soak

_FAULTS = 40
_SEED = 2024
_SCENARIOS: tuple[Scenario[Any], ...] = (*consul.SCENARIOS, *hosts.SCENARIOS, *processes.SCENARIOS)


@soak  # test_cluster_faults.py injects each kind alone, on one cluster
@pytest.mark.integration
@pytest.mark.timeout(3600)
async def test_a_series_of_faults_fails_no_request(tmp_path: Path) -> None:
    setting = os.environ.get("CLUSTER_SEED", str(_SEED))
    seed = random.SystemRandom().randrange(1 << 32) if setting == "random" else int(setting)
    print(f"CLUSTER_SEED={seed}")
    runs = []
    async with cluster(tmp_path / "cluster") as stage:
        for scenario in draw(seed, _FAULTS, _SCENARIOS):
            runs.append(await drilled(stage, scenario))
            assert runs[-1].violations == (), f"{scenario.name}; CLUSTER_SEED={seed}"
            assert runs[-1].status == "passed", f"{scenario.name}; CLUSTER_SEED={seed}"
        assert await unexplained_changes(stage, runs) == [], f"CLUSTER_SEED={seed}"
