"""The command lines of the monthly drill are those of the command, and its settings have a load."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sidecar.cli.drill.commands import app
from sidecar.cli.drill.options import Where
from sidecar.settings import load_sidecar, load_xds
from sidecar.settings.canaries import build_all

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "deploy/config"


def of_unit() -> list[str]:
    text = (ROOT / "deploy/systemd/triton-sidecar-drill.service").read_text()
    [line] = re.findall(r"(?m)^ExecStart=(.+)$", text)
    return shlex.split(line)


def of_job() -> list[str]:
    text = (ROOT / "deploy/nomad/drill.nomad.hcl").read_text()
    [arguments] = re.findall(r"args = \[(.+?)\]", text, re.DOTALL)
    return ["triton-sidecar", *re.findall(r'"([^"]+)"', arguments)]


@pytest.mark.parametrize("line", [of_unit(), of_job()], ids=["systemd", "nomad"])
def test_the_command_line_names_a_live_mesh_and_needs_no_terminal(line: list[str]) -> None:
    _, drill, verb, *options = line
    assert (drill, verb) == ("drill", "all")
    command: Any = typer.main.get_command(app)
    given = command.commands[verb].make_context(verb, options).params
    names = ("mesh", "live", "config", "service", "envoy", "yes")
    where = Where(**{name: given[name] for name in names})
    where.check()
    assert where.live
    assert where.yes


def test_the_settings_have_canaries_of_the_service_that_sidecars_and_envoy_serve() -> None:
    settings = load_sidecar(CONFIG / "drill.toml")
    assert {each.model for each in build_all(settings)} == set(settings.triton.models)
    assert settings.service.name == load_sidecar(CONFIG / "sidecar.toml").service.name
    plane = load_xds(CONFIG / "xds.toml")
    assert settings.service.name == plane.xds.services[0]
    [address] = [each for each in of_unit() if each.startswith("127.0.0.1:")]
    assert address.rpartition(":")[2] == plane.envoy.listen.rpartition(":")[2]
