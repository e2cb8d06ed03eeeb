"""The units, as `systemd-analyze verify` checks them."""

import shutil
from pathlib import Path

import pytest

from tests.checks import validate_deploy
from tests.support.deploy_files import change
from tests.support.deploy_files import files as files


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_a_misspelt_key_of_a_unit_is_reported(files: Path) -> None:
    change(files / "deploy/systemd/triton-sidecar@.service", "WatchdogSec", "WatchdogSecs")
    problems = list(validate_deploy.units())
    assert len(problems) == 1
    assert "triton-sidecar@.service" in problems[0]
    assert "'WatchdogSecs'" in problems[0]
