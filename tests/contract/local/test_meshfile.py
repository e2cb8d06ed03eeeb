import json
from pathlib import Path

import pytest

from sidecar.local import meshfile
from sidecar.local.meshfile import (
    ConsulAddresses,
    EnvoyAddresses,
    InstanceAddresses,
    Mesh,
    SidecarAddresses,
    TritonAddresses,
    XdsAddresses,
)
from sidecar.runtime.errors import ConfigError


def mesh(folder: Path) -> Mesh:
    return Mesh(
        dir=folder,
        supervisor=None,
        consul=ConsulAddresses("127.0.0.1:1", "http://127.0.0.1:1/ui/", folder / "token"),
        envoy=EnvoyAddresses("127.0.0.1:2", "127.0.0.1:3"),
        xds=XdsAddresses("127.0.0.1:4", "127.0.0.1:5"),
        instances=(
            InstanceAddresses(
                "triton-0",
                TritonAddresses("127.0.0.1:6", "127.0.0.1:7", "127.0.0.1:8"),
                SidecarAddresses("127.0.0.1:9", "127.0.0.1:10"),
            ),
        ),
    )


def test_mesh_json_round_trips(tmp_path: Path) -> None:
    folder = tmp_path / 'with space and "quote"'
    folder.mkdir()
    written = mesh(folder).with_pids(7, {"consul": 11, "triton-0": 12, "sidecar-0": None})
    meshfile.write_whole(folder / meshfile.NAME, meshfile.dumps(written))
    assert meshfile.load(folder) == meshfile.load(folder / "mesh.json") == written
    assert written.consul.pid == 11
    assert written.instance("triton-0").triton.pid == 12
    assert written.instance("triton-0").sidecar.pid is None
    assert [path.name for path in folder.iterdir()] == ["mesh.json"]  # no temporary file left
    assert (folder / "mesh.json").stat().st_mode & 0o077 == 0


def test_the_schema_that_other_programs_read(tmp_path: Path) -> None:
    document = json.loads(meshfile.dumps(mesh(tmp_path).with_pids(7, {"envoy": 5})))
    assert document["version"] == 1
    assert document["supervisor"] == {"pid": 7}
    assert document["envoy"] == {"grpc": "127.0.0.1:2", "admin": "127.0.0.1:3", "pid": 5}
    assert set(document["instances"][0]) == {"id", "triton", "sidecar"}
    assert set(document["instances"][0]["triton"]) == {"grpc", "http", "metrics", "pid"}
    assert set(document["instances"][0]["sidecar"]) == {"grpc", "metrics", "pid"}


def test_a_folder_without_a_mesh_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no mesh is running"):
        meshfile.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1}'])
def test_an_unreadable_mesh_json_is_reported_with_its_path(tmp_path: Path, text: str) -> None:
    (tmp_path / "mesh.json").write_text(text)
    with pytest.raises(ConfigError, match=r"mesh\.json"):
        meshfile.load(tmp_path)
