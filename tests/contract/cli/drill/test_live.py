"""Options of `drill --live` that are rejected, and the confirmation at a terminal."""

import asyncio
import io
import sys
from pathlib import Path

import pytest

from sidecar.cli.drill import live
from sidecar.cli.drill.options import Where
from sidecar.drill.scenarios.catalog import select
from sidecar.runtime.errors import Conflict
from tests.support.consul_agent import ConsulAgent
from tests.support.operator_rig import Run, on_agent, sidecars
from tests.support.operator_rig import run as run

pytestmark = pytest.mark.contract
AGENT_IS_ENOUGH = True

SETTINGS = """
[service]
name = "SERVICE"
[triton]
models = ["m"]
[canary.m]
inputs = [{ name = "x", datatype = "BYTES", shape = [1], data = ["Hello"] }]
expect = [{ output = "y", equals = ["Hello"] }]
"""
ENVOY = "--envoy=127.0.0.1:1"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "drill.toml"
    path.write_text(SETTINGS.replace("SERVICE", "nobody"))
    return path


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--live", "--mesh=x", ENVOY, "--config=c"), "expected --mesh or --live, not both"),
        (("--live", ENVOY), "--live: expected --config FILE"),
        (("--live", "--config=c"), "--live: expected --envoy HOST:PORT"),
        (("--envoy=x", "--mesh=x"), "--envoy: expected --live with it"),
        (("--config=x",), "--config: expected --live with it"),
        (("--service=x",), "--service: expected --live with it"),
        (("--yes",), "--yes: expected --live with it"),
        (("--live", "--config=/nowhere.toml", ENVOY), "/nowhere.toml: "),
        (("--live", "--config=c", "--envoy=edge"), "--envoy: expected host:port, found 'edge'"),
    ],
)
def test_options_that_name_no_mesh(run: Run, options: tuple[str, ...], why: str) -> None:
    for verb in (("drill", "run", "crash"), ("drill", "all")):
        result = run(*verb, *options)
        assert result.exit_code == 2, result.output
        assert why in result.stderr


def test_settings_without_canaries_have_no_load(run: Run, config: Path) -> None:
    config.write_text('[triton]\nmodels = ["m"]\n')
    result = run("drill", "all", "--live", "--yes", ENVOY, f"--config={config}")
    assert result.exit_code == 2
    assert "expected [canary.MODEL] tables" in result.stderr


def test_without_a_terminal_it_needs_yes(run: Run, config: Path) -> None:
    result = run("drill", "all", "--live", ENVOY, f"--config={config}")
    assert result.exit_code == 2
    assert "expected --yes with --live: there is no terminal to ask at" in result.stderr


def test_an_unreachable_consul_is_exit_status_3(
    run: Run, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    report = f"--report={tmp_path / 'report'}"
    result = run("drill", "run", "crash", "--live", "--yes", ENVOY, f"--config={config}", report)
    assert result.exit_code == 3, result.output
    assert "set --config or CONSUL_HTTP_ADDR" in result.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("typed", ["SERVICE\n", "yes\n", "\n", ""])
async def test_the_operator_types_the_service_s_name(
    consul_agent: ConsulAgent, config: Path, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    said = Terminal()
    async with on_agent(consul_agent) as scene, sidecars(scene, "a", "b"):
        monkeypatch.setenv("CONSUL_HTTP_ADDR", consul_agent.http)
        monkeypatch.setattr(sys, "stdin", Terminal(typed.replace("SERVICE", scene.service)))
        monkeypatch.setattr(sys, "stderr", said)
        where = Where(None, True, config, scene.service, "edge:8001")
        agreeing = asyncio.to_thread(live.agree, where, select(["crash"]), 1, "rate=10")
        if typed == "SERVICE\n":
            await agreeing
        else:
            with pytest.raises(Conflict):
                await agreeing
    assert f"service {scene.service}: 2 instances, {scene.service}-a is primary" in said.getvalue()
