"""What a cluster that has started lacks, with the reason."""

from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.drill.cluster import small_disk, start
from sidecar.drill.cluster.layout import Consul, Overrides, build
from sidecar.drill.cluster.stage import ClusterStage
from sidecar.local.planning.plan import MeshOptions, Sources
from sidecar.local.programs import parts
from tests.support.local_plan import BOOTSTRAP, PROGRAMS

pytestmark = pytest.mark.contract


class Empty(ClusterStage):
    """A cluster without a part, which is healthy at once."""

    async def begin(self) -> None:
        return


async def test_a_cluster_says_why_it_has_no_small_disk_and_no_clocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_disk, "_MOUNT", "echo no tmpfs here >&2; false")
    monkeypatch.setattr(parts, "faketime", lambda: None)
    options = MeshOptions(folder=tmp_path, instances=1, demo_models=False)
    sources, consul = Sources(BOOTSTRAP, {}), Consul(1, "", "")
    layout = build("test", options, PROGRAMS, sources, consul, {}, Overrides())
    bare = replace(layout, parts=(), mesh=replace(layout.mesh, links={}, copies={}))
    async with start.run(bare, Empty, disk=True, clocks=True) as stage:
        assert stage.further == frozenset()
        assert stage.lacking.keys() == {"disk", "clock"}
        assert "no tmpfs here" in stage.lacking["disk"]
        assert (tmp_path / "logs").is_dir()
