"""Whether Envoy takes Consul's bootstrap is told from everything that can happen before that."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.peers import connect
from sidecar.runtime.errors import PartMissing

_CONSUL = """#!/bin/sh
case $1 in
version) echo "Consul v1.99.0" ;;
agent) {agent} ;;
connect) {connect} ;;
esac
"""
_REFUSED = 'echo "error: cannot parse (x): no such field: hosts) in x" >&2; exit 1'


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    connect.unfit.cache_clear()
    yield
    connect.unfit.cache_clear()


def _programs(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    agent: str = "exec sleep 60",
    written: str = "echo {}",
    envoy: str = "exit 0",
) -> None:
    texts = {
        "consul": _CONSUL.format(agent=agent, connect=written),
        "envoy": f"#!/bin/sh\n{envoy}\n",
    }
    for name, text in texts.items():
        program = folder / name
        program.write_text(text)
        program.chmod(0o755)
        monkeypatch.setenv(f"{name.upper()}_BIN", str(program))


def test_an_envoy_that_takes_it_can_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _programs(tmp_path, monkeypatch)
    assert connect.unfit() == ""


def test_an_envoy_that_rejects_it_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _programs(tmp_path, monkeypatch, envoy=_REFUSED)
    assert connect.unfit() == (
        "Envoy rejects the bootstrap that `consul connect envoy` of Consul 1.99.0 writes "
        "(no such field: hosts)"
    )


def test_a_consul_that_does_not_start_is_no_rejection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _programs(tmp_path, monkeypatch, agent="echo no port >&2; exit 1", written="exit 1")
    with pytest.raises(PartMissing, match="no port"):
        connect.unfit()


def test_a_machine_without_namespaces_is_no_rejection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _programs(tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(PartMissing, match="unshare"):
        connect.unfit()
