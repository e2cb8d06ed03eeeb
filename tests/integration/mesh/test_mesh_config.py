"""`triton-sidecar run` and `xds` with invalid settings and with ports in use."""

import asyncio
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.local.planning.ports import reserve
from tests.support.consul_agent import ConsulAgent
from tests.support.mesh.mesh_clients import check
from tests.support.mesh.mesh_outside import ROOT, sidecar, until
from tests.support.soak import soak

pytestmark = pytest.mark.integration

SERVICE = "settings-test"
VALID = """
[service]
name = "settings-test"
id = "settings-test-0"

[triton]
grpc = "127.0.0.1:9"
models = ["chat"]

[consul]
address = "http://{consul}"
token = "a-secret-token"

[listen]
grpc = "127.0.0.1:{grpc}"
metrics = "127.0.0.1:{metrics}"

[canary.chat]
inputs = [{{ name = "text", datatype = "BYTES", shape = [1], data = ["Hello"] }}]
expect = [{{ output = "answer", equals = ["Hi"] }}]
"""
INVALID = """
[service]
name = "settings test"
weight = 0

[triton]
grpc = "nowhere"
models = []

[consul]
address = "http://{consul}"
tokenfile = "/etc/token"

[health]
interval = "soon"

[election]
session_ttl = "1s"
"""


def write(folder: Path, text: str, **values: object) -> Path:
    path = folder / "sidecar.toml"
    path.write_text(text.format(**values))
    return path


def test_all_invalid_settings_are_reported_at_once(
    consul_agent: ConsulAgent, tmp_path: Path
) -> None:
    config = write(tmp_path, INVALID, consul=consul_agent.http)
    for arguments in (("--config", str(config)), ("--config", str(config), "--check-config")):
        refused = sidecar("run", *arguments)
        assert refused.returncode == 2
        assert refused.stdout == ""
        for key in (
            "service.name",
            "service.weight",
            "triton.grpc",
            "triton.models",
            "consul.tokenfile",
            "health.interval",
            "election.session_ttl",
        ):
            [said] = [line for line in refused.stderr.splitlines() if f" {key}:" in line]
            assert str(config) in said
    with urllib.request.urlopen(f"http://{consul_agent.http}/v1/agent/services") as answer:
        services = json.load(answer).values()
    assert [entry for entry in services if entry["Service"].startswith("settings")] == []


@pytest.mark.parametrize("state", ["", "none/state.json"])
def test_the_state_of_the_loaded_set_needs_a_file_path(tmp_path: Path, state: str) -> None:
    config = write(tmp_path, VALID, consul="127.0.0.1:9", grpc=9001, metrics=9002)
    given = f"--set=triton.repository={tmp_path}", f"--set=triton.state={tmp_path / state}"
    refused = sidecar("run", "--config", str(config), *given, "--check-config")
    assert refused.returncode == 2
    assert "triton.state: " in refused.stderr


def test_check_config_shows_the_settings_without_secrets(tmp_path: Path) -> None:
    config = write(tmp_path, VALID, consul="127.0.0.1:9", grpc=9001, metrics=9002)
    shown = sidecar("run", "--config", str(config), "--check-config", check=True)
    assert json.loads(shown.stdout)["service"]["name"] == SERVICE
    assert "a-secret-token" not in shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("text", "status", "named"),
    [
        ('[xds]\nservices = ["a"]\n', 0, ()),
        ('[xds]\nlisten = "x"\nservices = []\n[envoy]\nlisten = ""\n[tritn]\n',
         2, ("xds.listen", "xds.services", "envoy.listen", "tritn")),
        ("[xds\n", 2, ("xds.toml",)),
    ],
)  # fmt: skip
def test_the_settings_of_a_control_plane_are_checked(
    tmp_path: Path, text: str, status: int, named: tuple[str, ...]
) -> None:
    config = tmp_path / "xds.toml"
    config.write_text(text)
    for flags in ((), ("--check-config",)) if status else (("--check-config",),):
        done = sidecar("xds", "--config", str(config), *flags)
        assert done.returncode == status
        assert "Traceback" not in done.stderr
        assert [name for name in named if name not in done.stderr] == []


def test_a_missing_settings_file_is_a_config_error(tmp_path: Path) -> None:
    refused = sidecar("run", "--config", str(tmp_path / "none.toml"))
    assert refused.returncode == 2
    assert "none.toml" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("key", ["grpc", pytest.param("metrics", marks=soak)])
def test_a_port_in_use_is_reported_in_one_line(
    consul_agent: ConsulAgent, tmp_path: Path, key: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, reserve(2) as (grpc, metrics):
        given = {"grpc": grpc, "metrics": metrics, key: taken.getsockname()[1]}
        config = write(tmp_path, VALID, consul=consul_agent.http, **given)
        refused = sidecar("run", "--config", str(config))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    assert _error_line(refused).startswith(f"{config}: listen.{key}: ")
    assert f"{address}: Address already in use" in _error_line(refused)


async def test_a_second_sidecar_cannot_bind_the_same_port(
    consul_agent: ConsulAgent, tmp_path: Path
) -> None:
    with reserve(3) as (grpc, metrics, other):
        config = write(tmp_path, VALID, consul=consul_agent.http, grpc=grpc, metrics=metrics)
        with _running("run", "--config", str(config)):
            await until(lambda: _answers(f"127.0.0.1:{grpc}"), "the first sidecar")
            given = ("--set", f"listen.metrics=127.0.0.1:{other}")
            refused = await asyncio.to_thread(sidecar, "run", "--config", str(config), *given)
    assert _error_line(refused).startswith(f"{config}: listen.grpc: ")
    assert f"127.0.0.1:{grpc}: Address already in use" in _error_line(refused)


def _error_line(refused: subprocess.CompletedProcess[str]) -> str:
    """The error message of the program, in its one line; gRPC must add none."""
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert "add_port" not in refused.stderr
    prefix = "triton-sidecar: "
    [said] = [line for line in refused.stderr.splitlines() if line.startswith(prefix)]
    return said.removeprefix(prefix)


async def _answers(address: str) -> bool:
    return await check(address, "") == "NOT_SERVING"


@contextmanager
def _running(*arguments: str) -> Iterator[None]:
    command = [sys.executable, "-m", "sidecar", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(60) == 0
