"""benchmarks/peers from empty namespaces to a result, in its quick form."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mesh.mesh_outside import ROOT

pytestmark = pytest.mark.soak  # programs are fetched, and each run takes most of a minute


@pytest.mark.parametrize(
    "design", ["nginx_backup/tuned", "keepalived/tuned", "haproxy/as_used", "envoy/tuned", "ours"]
)
def test_a_design_gets_through_a_crash(design: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.peers", "--quick", f"--results={tmp_path}"]
    wanted = ["--designs", design, "--scenarios", "crash"]
    done = subprocess.run(
        [*command, *wanted], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [result] = [json.loads(path.read_text()) for path in tmp_path.rglob("*.json")]
    assert result["seen"]["sent"] > 0
