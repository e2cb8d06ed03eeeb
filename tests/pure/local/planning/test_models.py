from pathlib import Path

import pytest

from sidecar.local.planning import models
from sidecar.local.planning.plan import MODELS
from sidecar.runtime.errors import ConfigError

pytestmark = pytest.mark.files

FAULTY = Path(__file__).parents[4] / "triton_models"


def make(folder: Path, canary: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text('backend: "python"')
    (folder / "canary.toml").write_text(canary)
    return folder


def test_additional_models_come_after_the_demo_models(tmp_path: Path) -> None:
    own = make(tmp_path / "own", "[canary.own]\ntimeout = '3s'")
    found = models.find([own])
    assert tuple(found) == (*MODELS, "own")
    assert found["own"].folder == own
    assert found["own"].canary == {"timeout": "3s"}


def test_a_model_replaces_the_demo_model_of_its_name(tmp_path: Path) -> None:
    own = make(tmp_path / "embedder", "[canary.embedder]")
    found = models.find([own])
    assert tuple(found) == MODELS
    assert found["embedder"].folder == own


def test_the_demo_models_may_be_left_out(tmp_path: Path) -> None:
    own = make(tmp_path / "own", "[canary.own]")
    assert tuple(models.find([own], demo=False)) == ("own",)
    with pytest.raises(ConfigError, match="--only-models"):
        models.find([], demo=False)


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    twins = [make(tmp_path / place / "own", "[canary.own]") for place in ("a", "b")]
    with pytest.raises(ConfigError, match="one model of the name own"):
        models.find(twins)


@pytest.mark.parametrize(
    ("canary", "complaint"),
    [
        ("[canary.other]", r"canary\.toml: expected a table \[canary\.own\]"),
        ("[canary.own", r"canary\.toml: expected a table \[canary\.own\]"),
        ("canary = 3", r"canary\.toml: expected a table \[canary\.own\]"),
        ("[canary]\nown = 3", r"canary\.toml: canary\.own: .* 3$"),
    ],
)
def test_a_model_without_a_canary_table_is_refused(
    tmp_path: Path, canary: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        models.find([make(tmp_path / "own", canary)])


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}: expected the folder of a model"):
        models.find([tmp_path])
    own = make(tmp_path / "own", "")
    (own / "canary.toml").unlink()
    with pytest.raises(ConfigError, match=r"own/canary\.toml"):
        models.find([own])


def test_the_models_of_the_tests_can_be_served() -> None:
    folders = [FAULTY / "faulty", FAULTY / "faulty_stream"]
    assert tuple(models.find(folders, demo=False)) == ("faulty", "faulty_stream")
