"""A random series of faults on a cluster under load.

`CLUSTER_SEED=N` selects another series, `CLUSTER_SEED=random` draws one. A seed always gives the
same faults on the same instances, or on the current primary.
"""

import os
import random
from pathlib import Path

import pytest

from tests.support.cluster.cluster import cluster
from tests.support.cluster.fault_outcome import inject, unexplained_changes
from tests.support.cluster.faults import draw
from tests.support.soak import soak

_FAULTS = 40
_SEED = 2024


@soak  # test_cluster_faults.py injects each kind alone, on one cluster under one load
@pytest.mark.integration
@pytest.mark.timeout(1800)
async def test_a_series_of_faults_fails_no_request(tmp_path: Path) -> None:
    setting = os.environ.get("CLUSTER_SEED", str(_SEED))
    seed = random.SystemRandom().randrange(1 << 32) if setting == "random" else int(setting)
    print(f"CLUSTER_SEED={seed}")
    accounts = []
    async with cluster(tmp_path / "cluster") as mesh:
        async with mesh.under_load() as scene:
            for step in draw(seed, _FAULTS, len(mesh.now.instances)):
                victim = scene.primary if step.victim is None else f"triton-{step.victim}"
                accounts.append(await inject(mesh, scene, step.fault, victim, step.seconds))
                assert accounts[-1].trouble == [], f"{step}; CLUSTER_SEED={seed}"
        assert await unexplained_changes(mesh, accounts) == [], f"CLUSTER_SEED={seed}"
