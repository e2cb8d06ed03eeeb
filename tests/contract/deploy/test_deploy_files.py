"""The units, as `systemd-analyze verify` checks them."""

from pathlib import Path

import pytest

from sidecar.runtime.errors import PartMissing
from tests.checks import validate_deploy
from tests.support.deploy_files import change
from tests.support.deploy_files import files as files
from tests.support.systemd import root


def test_a_misspelt_key_of_a_unit_is_reported(files: Path) -> None:
    change(files / "deploy/systemd/triton-sidecar@.service", "WatchdogSec", "WatchdogSecs")
    problems = list(validate_deploy.units())
    assert len(problems) == 1
    assert "triton-sidecar@.service" in problems[0]
    assert "'WatchdogSecs'" in problems[0]


def test_units_that_cannot_be_checked_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(suite: str) -> Path:
        raise PartMissing(f"systemd of {suite}: cannot be provided: no apt")

    monkeypatch.setattr(root, "provide", missing)
    [problem] = validate_deploy.units()
    assert "no apt" in problem
