"""benchmarks/peers from empty namespaces to a result, in its quick form."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mesh.mesh_outside import ROOT

pytestmark = pytest.mark.soak  # programs are fetched, and each run takes most of a minute


@pytest.mark.parametrize(
    ("design", "scenario"),
    [
        ("nginx_backup/tuned", "crash"),
        ("nginx_pair/as_used", "query_of_death"),
        ("keepalived/tuned", "crash"),
        ("haproxy/as_used", "consul_gone_crash"),
        ("envoy/tuned", "hung_model"),
        ("ours", "switchover"),
        ("ours/active_active", "switchover"),
    ],
)
def test_a_design_gets_through_a_scenario(design: str, scenario: str, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks.peers", "--quick", f"--results={results}"]
    wanted = ["--designs", design, "--scenarios", scenario]
    done = subprocess.run(
        [*command, *wanted], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [result] = json.loads(results.read_text())["results"]
    seen = result["seen"]
    assert seen["sent"] > 0
    if not design.endswith("/as_used"):  # as used, some answer nothing any more
        assert seen["failed"] + seen["wrong"] < seen["sent"]
