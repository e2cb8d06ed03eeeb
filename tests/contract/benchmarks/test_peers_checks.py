"""The checks of tuned designs compare an answer with the right one."""

import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from benchmarks.peers.design import DESIGNS, FOLDER, Design
from benchmarks.peers.site import ROOT
from sidecar.drill.misbehaving_models import UNARY

_CRITICAL = 2  # for Consul; 1 is a warning
_CURL = '#!/bin/sh\nprintf "%s" "$ANSWER"\nexit "$STATUS"\n'
_CONSUL = [one for one in DESIGNS if one.consul and one.name.endswith("/tuned")]
_KEEPALIVED = FOLDER / "keepalived" / "tuned" / "check_inference.sh"
_CHECKS = [*(FOLDER / one.name / "check_inference.sh" for one in _CONSUL), _KEEPALIVED]


def _right() -> str:
    text = (ROOT / "triton_models" / UNARY / "canary.toml").read_text()
    [answer] = tomllib.loads(text)["canary"][UNARY]["expect"][0]["equals"]
    return str(answer)


@pytest.mark.parametrize("check", _CHECKS, ids=lambda path: str(path.parent.relative_to(FOLDER)))
@pytest.mark.parametrize(
    ("answer", "status", "passes"),
    [(_right(), 0, True), ("another answer", 0, False), ("", 28, False)],
    ids=["right", "wrong", "no answer"],
)
def test_only_the_right_answer_passes(
    check: Path, answer: str, status: int, passes: bool, tmp_path: Path
) -> None:
    curl = tmp_path / "curl"
    curl.write_text(_CURL)
    curl.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ANSWER": answer, "STATUS": str(status)}
    done = subprocess.run([check], env=env, check=False)
    assert done.returncode == (0 if passes else 1 if check == _KEEPALIVED else _CRITICAL)


@pytest.mark.parametrize("design", _CONSUL, ids=lambda design: design.name)
def test_consul_runs_the_check(design: Design) -> None:
    folder = FOLDER / design.name
    [check] = json.loads((folder / "triton.json").read_text())["service"]["checks"]
    assert check["args"] == ["/etc/consul.d/check_inference.sh"]
    assert json.loads((folder / "agent.json").read_text())["enable_local_script_checks"] is True
