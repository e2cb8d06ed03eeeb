"""Runs `triton-sidecar canary`, and reads the files that it writes."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from sidecar.cli.main import app
from tests.support.triton_server import TritonServer

Run = Callable[..., Result]


def caller(server: TritonServer) -> Run:
    """A function that runs the commands against a server."""

    def call(*arguments: str, triton: bool = True) -> Result:
        flags = [f"--triton={server.grpc}"] if triton else []
        result = CliRunner().invoke(app, ["canary", *arguments, *flags])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


def recorded(model: str, path: str = "canary.toml") -> dict[str, Any]:
    return dict(tomllib.loads(Path(path).read_text())["canary"][model])


def refused(result: Result, status: int = 2) -> str:
    """The one line of a command's error."""
    assert result.exit_code == status, result.output
    (line,) = result.stderr.splitlines()
    return line.removeprefix("triton-sidecar: ")
