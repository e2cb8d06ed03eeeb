"""What systemd-analyze says of the units."""

import shutil
from pathlib import Path

import pytest

from tests.checks import validate_deploy
from tests.support.deploy_files import change
from tests.support.deploy_files import files as files


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_a_misspelt_unit_key_is_named(files: Path) -> None:
    change(files / "deploy/systemd/triton-sidecar@.service", "WatchdogSec", "WatchdogSecs")
    problems = list(validate_deploy.units())
    assert len(problems) == 1
    assert "triton-sidecar@.service" in problems[0]
    assert "'WatchdogSecs'" in problems[0]
