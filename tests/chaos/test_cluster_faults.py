"""Each fault alone, at the primary of a cluster of three Consul servers and three hosts."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.cluster.cluster import Cluster, cluster
from tests.support.cluster.fault_outcome import inject, unexplained_changes
from tests.support.cluster.faults import (
    AGENTS_RESTARTED,
    CUTS,
    KILLED,
    LEADER_KILLED,
    SERVER_KILLED,
    SIDECAR_FROZEN,
    Fault,
)
from tests.support.mesh.mesh import Scene
from tests.support.soak import soak

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(mesh: Cluster) -> AsyncIterator[Scene]:
    async with mesh.under_load() as loaded:
        yield loaded


@pytest.mark.parametrize(
    "fault",
    [
        LEADER_KILLED,
        SERVER_KILLED,
        *CUTS[:-1],
        pytest.param(CUTS[-1], marks=soak),  # cut off from both at once
        SIDECAR_FROZEN,
        KILLED[0],
        *(pytest.param(fault, marks=soak) for fault in KILLED[1:]),
        AGENTS_RESTARTED,
    ],
    ids=lambda fault: fault.name,
)
async def test_a_fault_fails_no_request(mesh: Cluster, scene: Scene, fault: Fault) -> None:
    account = await inject(mesh, scene, fault, scene.primary, fault.lasts[0])
    assert account.trouble == []
    assert await unexplained_changes(mesh, [account]) == []
