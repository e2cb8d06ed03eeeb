"""`[models]`: the store that commands use by default."""

from pathlib import Path

import pytest

from sidecar.runtime.errors import ConfigError
from sidecar.settings import load_operator

pytestmark = pytest.mark.files


def store(folder: Path, value: str) -> str | None:
    (path := folder / "sidecar.toml").write_text(f'[models]\nstore = "{value}"\n')
    return load_operator(path).models.store


def test_a_folder_is_relative_to_the_file(tmp_path: Path) -> None:
    assert store(tmp_path, "models") == str(tmp_path / "models")
    assert store(tmp_path, "/srv/models") == "/srv/models"


def test_an_address_stays_as_it_is(tmp_path: Path) -> None:
    assert store(tmp_path, "s3://bucket/prefix") == "s3://bucket/prefix"


def test_by_default_there_is_none() -> None:
    assert load_operator(None).models.store is None


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_SIDECAR_MODELS__STORE", "s3://other/x")
    assert store(tmp_path, "models") == "s3://other/x"


@pytest.mark.parametrize("value", ["ftp://x", "file:///srv"])
def test_what_is_no_place(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"models\.store"):
        store(tmp_path, value)
