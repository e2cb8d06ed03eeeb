"""A copy of the deployment files, into which tests insert errors."""

import shutil
from pathlib import Path

import pytest

from tests.checks import validate_deploy

ROOT = Path(__file__).parents[2]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, which the checks read instead of the real ones."""
    for name in ("consul", "deploy"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.setattr(validate_deploy, "ROOT", tmp_path)
    monkeypatch.setattr(validate_deploy, "DEPLOY", tmp_path / "deploy")
    monkeypatch.setattr(validate_deploy, "CONSUL", tmp_path / "consul")
    return tmp_path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
