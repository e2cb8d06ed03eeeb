import dataclasses
import json
import os
import signal
import subprocess
import sys
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
from sidecar.local.processes import identity, state_file
from sidecar.local.processes.identity import Identity
from sidecar.local.processes.state_file import MeshState, PartState
from sidecar.runtime.errors import ConfigError

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


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


def test_mesh_json_round_trip(tmp_path: Path) -> None:
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


def test_the_shape_that_other_programs_read(tmp_path: Path) -> None:
    document = json.loads(meshfile.dumps(mesh(tmp_path).with_pids(7, {"envoy": 5})))
    assert document["version"] == 1
    assert document["supervisor"] == {"pid": 7}
    assert document["envoy"] == {"grpc": "127.0.0.1:2", "admin": "127.0.0.1:3", "pid": 5}
    assert set(document["instances"][0]) == {"id", "triton", "sidecar"}
    assert set(document["instances"][0]["triton"]) == {"grpc", "http", "metrics", "pid"}
    assert set(document["instances"][0]["sidecar"]) == {"grpc", "metrics", "pid"}


def test_no_mesh(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no mesh is running"):
        meshfile.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1}'])
def test_an_unreadable_mesh_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "mesh.json").write_text(text)
    with pytest.raises(ConfigError, match=r"mesh\.json"):
        meshfile.load(tmp_path)


def test_state_round_trip(tmp_path: Path) -> None:
    part = PartState(
        "xds", "xds", "127.0.0.1:4", tmp_path / "x.log", "running", Identity(3, 4), 5.5
    )
    written = MeshState("ab", "running", Identity(1, 2), (1, 2), ("p-",), (part,))
    assert state_file.load(tmp_path) is None
    state_file.save(tmp_path, written)
    assert state_file.load(tmp_path) == written
    (tmp_path / state_file.NAME).write_text("{}")
    with pytest.raises(ConfigError, match=r"state\.json"):
        state_file.load(tmp_path)


def test_an_identity_is_alive_until_its_process_dies() -> None:
    child = subprocess.Popen(SLEEP)
    found = identity.identify(child.pid)
    assert found is not None
    assert identity.alive(found)
    assert identity.send(found, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not identity.alive(found)  # a zombie is dead
    child.wait()
    assert identity.identify(child.pid) is None
    assert not identity.send(found, signal.SIGKILL)


def test_a_reused_pid_is_never_signalled() -> None:
    child = subprocess.Popen(SLEEP)
    try:
        found = identity.identify(child.pid)
        assert found is not None
        earlier = dataclasses.replace(found, start=found.start - 1)
        assert not identity.alive(earlier)
        assert not identity.send(earlier, signal.SIGKILL)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_names_with_parentheses_and_spaces(tmp_path: Path) -> None:
    odd = tmp_path / "a) S (b"
    odd.symlink_to(sys.executable)
    child = subprocess.Popen([odd, *SLEEP[1:]])
    try:
        found = identity.identify(child.pid)
        own = identity.identify(os.getpid())
        assert found is not None
        assert own is not None
        assert found.start >= own.start
    finally:
        child.kill()
        child.wait()


def test_the_mark_finds_unrecorded_processes() -> None:
    children = [
        subprocess.Popen(SLEEP, env={**os.environ, identity.MARK: name}) for name in ("me", "mess")
    ]
    try:
        while not (seen := {found.pid for found in identity.marked("me")}):
            pass  # between fork and exec it still has our own environment
        assert seen == {children[0].pid}
    finally:
        for child in children:
            child.kill()
            child.wait()
