"""`triton-sidecar model`: what the verbs print, and their exit statuses."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sidecar.cli.main import app
from sidecar.models.store.documents import layout
from sidecar.models.store.places import location
from tests.support import model_stores
from tests.support.model_stores import FILES

Run = Callable[..., Result]
Json = Callable[..., dict[str, Any]]
_OLD = 1e9  # Unix seconds


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["model", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_stores.model(tmp_path / "model")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "store"
    monkeypatch.setenv("TRITON_SIDECAR_MODELS__STORE", str(place))
    return place


@pytest.fixture
def run(store: Path) -> Run:
    """Runs a verb that succeeds."""

    def run(*arguments: str) -> Result:
        result = invoke(*arguments)
        assert result.exit_code == 0, result.output
        return result

    return run


@pytest.fixture
def answer(run: Run) -> Json:
    """The JSON that a verb prints."""
    return lambda *arguments: dict(json.loads(run(*arguments, "--json").stdout))


def test_from_a_folder_into_a_store_and_back(
    run: Run, answer: Json, model: Path, tmp_path: Path
) -> None:
    pushed = answer("push", "chat:v1", str(model), "--from", "commit abc")
    assert (pushed["name"], pushed["known"]) == ("chat:v1", False)
    assert answer("push", "chat:v1", str(model))["known"]
    [listed] = answer("list")["snapshots"]
    assert listed["names"] == ["chat:v1"]
    assert (listed["digest"], listed["from"]) == (pushed["digest"], "commit abc")
    shown = answer("show", "chat:v1")
    assert [file["path"] for file in shown["files"]] == sorted(FILES)
    target = tmp_path / "pulled"
    assert not answer("pull", f"chat@{pushed['digest']}", "--to", str(target))["known"]
    assert answer("pull", "chat:v1", "--to", str(target))["known"]
    assert model_stores.content(target) == FILES
    assert answer("verify")["snapshots"] == 1
    for verb in (("list",), ("show", "chat:v1"), ("verify",), ("push", "chat:v1", str(model))):
        assert run(*verb).stdout


def test_names_are_given_moved_and_removed(run: Run, answer: Json, model: Path) -> None:
    first = answer("push", "chat:v1", str(model))
    assert answer("tag", "chat:v1", "prod")["name"] == "chat:prod"
    (model / "1" / "model.py").write_text("changed")
    second = answer("push", "chat:v2", str(model))
    refused = invoke("tag", "chat:v2", "prod", "--json")
    assert (refused.exit_code, json.loads(refused.stdout)["done"]) == (1, False)
    assert answer("tag", "chat:v2", "prod", "--move")["digest"] == second["digest"]
    assert answer("rm", "chat:v1")["digest"] == first["digest"]
    names = [each["names"] for each in answer("list", "chat")["snapshots"]]
    assert sorted(names) == [[], ["chat:prod", "chat:v2"]]
    assert invoke("list", "other").exit_code == 1


def test_a_removal_can_be_undone_within_the_grace(
    run: Run, answer: Json, model: Path, store: Path
) -> None:
    digest = answer("push", "chat:v1", str(model))["digest"]
    for path in store.rglob("*"):
        os.utime(path, (_OLD, _OLD))
    undo = run("rm", "chat:v1").stdout.splitlines()[-1].split()
    assert answer("gc")["snapshots"] == []
    run(*undo[2:])
    assert answer("show", "chat:v1")["digest"] == digest


def test_show_tells_a_snapshot_without_a_name(run: Run, answer: Json, model: Path) -> None:
    digest = answer("push", "chat", str(model))["digest"]
    assert "no name; " in run("show", f"chat@{digest}").stdout


def test_a_folder_of_models_is_not_pushed(model: Path, store: Path) -> None:
    result = invoke("push", "chat:v1", str(model.parent))
    assert (result.exit_code, "'model'" in result.stderr) == (2, True)
    assert not store.exists()


def test_the_collector_says_what_and_how_much(
    run: Run, answer: Json, model: Path, store: Path
) -> None:
    for version in range(4):
        (model / "1" / "model.py").write_text(f"{version}")
        run("push", "chat:v1", str(model), "--move")
    assert answer("gc")["snapshots"] == []
    for path in store.rglob("*"):
        os.utime(path, (_OLD, _OLD))
    would = answer("gc", "--dry-run", "--keep", answer("list")["snapshots"][-1]["digest"])
    assert (len(would["snapshots"]), would["blobs"], would["bytes"]) == (1, 1, 1)
    assert answer("gc", "--max-size", "1GB")["snapshots"] == []
    assert answer("gc", "--until-free", "0%")["snapshots"] == []
    done = answer("gc", "--last", "1")
    assert (len(done["snapshots"]), done["blobs"], done["dry_run"]) == (3, 3, False)
    assert answer("verify")["snapshots"] == 1


def test_damage_is_told_with_the_file_and_ends_with_1(
    run: Run, model: Path, store: Path, tmp_path: Path
) -> None:
    run("push", "chat:v1", str(model))
    backend = location.backend(str(store))
    file = model_stores.resolve(backend).snapshot.files[1]
    backend.put(layout.blob(file.digest), b"x" * file.size)
    for arguments in (("verify",), ("verify", "chat"), ("verify", "chat:v1")):
        result = invoke(*arguments)
        assert result.exit_code == 1
        assert file.path in result.stdout
        assert file.digest in result.stdout
    found = json.loads(invoke("verify", "--json").stdout)
    assert (found["done"], found["damages"][0]["path"]) == (False, file.path)
    pulled = invoke("pull", "chat:v1", "--to", str(tmp_path / "pulled"))
    assert pulled.exit_code == 1
    assert file.path in pulled.stderr
    run("push", "chat:v1", str(model), "--verify")
    run("verify")


def test_offsite_and_back(run: Run, answer: Json, model: Path, store: Path, tmp_path: Path) -> None:
    run("push", "chat:v1", str(model))
    run("push", "chat", str(model), "--from", "unnamed")
    other = str(tmp_path / "other")
    [copied] = answer("copy", str(store), other)["copied"]
    assert copied["tags"] == ["v1"]
    [again] = answer("copy", str(store), other, "chat:v1")["copied"]
    assert again["new"] == 0
    run("verify", "--store", other)
    run("pull", "chat:v1", "--to", str(tmp_path / "pulled"), "--store", other)


def test_a_copy_reports_each_name_that_differs(
    run: Run, model: Path, store: Path, tmp_path: Path
) -> None:
    other = str(tmp_path / "other")
    run("push", "chat:v1", str(model), "--store", other)
    (model / "1" / "model.py").write_text("changed")
    for name in ("chat:v1", "embedder:v1"):
        run("push", name, str(model))
    result = invoke("copy", str(store), other)
    assert (result.exit_code, "embedder:v1" in result.stdout) == (1, True)
    assert "chat:v1 is sha256:" in result.stderr
    found = json.loads(invoke("copy", str(store), other, "--json").stdout)
    assert (found["done"], len(found["conflicts"]), len(found["copied"])) == (False, 1, 2)
    run("copy", str(store), other, "--move")


def test_the_store_of_a_settings_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "sidecar.toml").write_text('[models]\nstore = "beside"\n')
    assert (
        invoke("push", "chat", str(model), "--config", str(tmp_path / "sidecar.toml")).exit_code
        == 0
    )
    assert (tmp_path / "beside").is_dir()


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("list",), 2),  # no store is named
        (("list", "--store", "/nowhere/store"), 2),
        (("list", "--store", "ftp://x/y"), 2),
        (("list", "nosuch"), 1),
        (("list", "chat:v1"), 2),
        (("list", "../../.."), 2),
        (("list", "--store", "s3://UPPER/x"), 2),
        (("push", "../chat", "."), 2),
        (("push", "chat@sha256:0123456789", "."), 2),
        (("push", "chat", "/nowhere"), 2),
        (("push", "chat"), 2),
        (("pull", "chat:v1", "--to", "/tmp/x"), 1),
        (("show", "chat"), 1),
        (("verify", "chat:v1"), 1),
        (("tag", "chat:v1", "a/b"), 2),
        (("rm", "chat:v1"), 1),
        (("rm", "chat"), 2),
        (("gc", "--grace", "0s"), 2),
        (("gc", "--keep", "v1"), 2),
        (("gc", "--keep", "0" * 64), 1),
        (("gc", "--until-free", "20"), 2),
        (("gc", "--max-size", "-1"), 2),
        (("gc", "--last", "0"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes(arguments: tuple[str, ...], status: int, tmp_path: Path) -> None:
    model_stores.opened(str(empty := tmp_path / "empty"))
    named = "--store" in arguments or arguments == ("list",)
    result = invoke(*arguments, *(() if named else ("--store", str(empty))))
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    assert result.stderr.strip()


def test_a_bucket_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    result = invoke("list", "--store", "s3://models/x")
    assert result.exit_code == 3
    assert "s3://models/x" in result.stderr
