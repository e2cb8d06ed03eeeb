"""What Nomad would run for the monthly drill: it knows every variable, and every file loads."""

from pathlib import Path

import pytest

from sidecar.settings import load_sidecar
from tests.support.nomad_task import rendered

pytestmark = pytest.mark.files
JOB = Path(__file__).parents[3] / "deploy/nomad/drill.nomad.hcl"


def test_the_task_of_the_drill_has_its_settings_token_and_report(tmp_path: Path) -> None:
    task = rendered(JOB, tmp_path, "a-token")
    given = dict(zip(task.command, task.command[1:], strict=False))
    assert load_sidecar(Path(given["--config"])).service.name == "triton"
    assert Path(task.env["CONSUL_HTTP_TOKEN_FILE"]).read_text() == "a-token"
    assert Path(given["--report"]).parent == tmp_path / "alloc/data"
