"""`triton-sidecar canary` against a real Triton."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from sidecar.cli.main import app
from sidecar.errors import ConfigError, SidecarError
from tests.triton_server import TritonServer

pytestmark = pytest.mark.contract
Run = Callable[..., Result]
ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = 'sampling_parameters={"max_tokens": 4, "temperature": 0}'


@pytest.fixture
def run(triton_server: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, triton: bool = True) -> Result:
        flags = [f"--triton={triton_server.grpc}"] if triton else []
        result = CliRunner().invoke(app, ["canary", *arguments, *flags])
        if result.exception and not isinstance(result.exception, SystemExit | SidecarError):
            raise result.exception
        return result

    return call


def recorded(model: str, path: str = "canary.toml") -> dict[str, Any]:
    return dict(tomllib.loads(Path(path).read_text())["canary"][model])


def test_a_repeatable_answer_is_recorded_tested_and_listed(run: Run) -> None:
    flags = ("--input=text_input=Hello", f"--input={PARAMETERS}")
    result = run("record", "tinychat", *flags, "--input=stream=true")
    assert result.exit_code == 0, result.output
    assert "'One slow reply may'" in result.output
    assert "the same each time" in result.output
    (expect,) = recorded("tinychat")["expect"]
    assert expect["equals"] == ["One slow reply may"]
    assert recorded("tinychat")["latency"].keys() == {"warn", "fail", "first_warn", "first_fail"}
    tested = run("test", "canary.toml")
    assert tested.exit_code == 0
    assert "passes" in tested.output
    listed = run("list", "canary.toml", triton=False)
    assert "text_output: datatype, shape, equals" in listed.output


def test_without_inputs_they_are_derived_which_is_said(run: Run) -> None:
    result = run("record", "echo_types", "--times=2")
    assert result.exit_code == 0, result.output
    assert "derived from the model's metadata" in result.output
    assert len(recorded("echo_types")["expect"]) == 14
    assert run("test", "canary.toml").exit_code == 0


def test_what_differs_is_said_and_not_expected(run: Run) -> None:
    result = run("record", "counter", "--input=VALUE=3", "--input=SECONDS=0")
    assert result.exit_code == 0, result.output
    assert "SEQUENCE: different UINT64 elements" in result.output
    by_output = {each["output"]: each for each in recorded("counter")["expect"]}
    assert by_output["SUM"]["equals"] == [3]
    assert by_output["SEQUENCE"].keys() == {"output", "datatype", "shape"}


def test_a_sequence_is_recorded_from_a_file(run: Run) -> None:
    def step(value: int) -> list[dict[str, object]]:
        return [
            {"name": "VALUE", "datatype": "INT32", "shape": [1, 1], "data": [[value]]},
            {"name": "SECONDS", "datatype": "FP32", "shape": [1, 1], "data": [[0.0]]},
        ]

    Path("steps.json").write_text(json.dumps({"steps": [step(2), step(40)]}))
    result = run("record", "counter", "--inputs=steps.json", "--times=2")
    assert result.exit_code == 0, result.output
    assert len(recorded("counter")["steps"]) == 2
    assert recorded("counter")["expect"][0]["equals"] == [42]
    assert run("test", "canary.toml").exit_code == 0


def test_long_tensors_lie_beside_the_file_which_can_be_anywhere(run: Run) -> None:
    np.save("payload.npy", np.linspace(0, 1, 500, dtype=np.float32))
    flags = ("--input=text=ready", "--input=payload=@payload.npy", "--output=deep/er/my.toml")
    result = run("record", "embedder", *flags)
    assert result.exit_code == 0, result.output
    written = recorded("embedder", "deep/er/my.toml")
    assert [each.get("file") for each in written["inputs"]] == [None, "../../payload.npy"]
    assert {path.name for path in Path("deep/er").iterdir()} >= {"my.toml", "my.echo.npy"}
    assert not list(Path("deep/er").glob(".*"))
    assert run("test", "deep/er/my.toml").exit_code == 0
    refused = run("record", "embedder", *flags)
    assert isinstance(refused.exception, ConfigError)


def test_nothing_is_overwritten_without_being_told(run: Run) -> None:
    Path("canary.toml").write_text("precious")
    refused = run("record", "tinychat_unary", f"--input={PARAMETERS}", "--input=text_input=Hello")
    assert isinstance(refused.exception, ConfigError)
    assert "canary.toml: exists already" in str(refused.exception)
    assert Path("canary.toml").read_text() == "precious"
    forced = run(
        "record", "tinychat_unary", f"--input={PARAMETERS}", "--input=text_input=Hello", "--force"
    )
    assert forced.exit_code == 0
    assert recorded("tinychat_unary")


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("nothing",), "NOT_FOUND"),
        (("counter", "--input=VALUE=1"), "found no SECONDS"),
        (("counter", "--input=VALUE=-1", "--input=SECONDS=0"), "negative"),
        (("tinychat", f"--input={PARAMETERS}"), "found no text_input"),
    ],
)
def test_a_question_that_cannot_be_asked_leaves_nothing(
    run: Run, flags: tuple[str, ...], why: str
) -> None:
    result = run("record", *flags)
    assert isinstance(result.exception, SidecarError)
    assert why in str(result.exception)
    assert not list(Path().iterdir())


def test_a_wrong_answer_is_told_by_the_exit_status_and_as_json(run: Run) -> None:
    right = ROOT / "triton_models" / "tinychat_unary" / "canary.toml"
    Path("wrong.toml").write_text(right.read_text().replace("One slow", "Two fast"))
    embedder = ROOT / "triton_models" / "embedder" / "canary.toml"
    result = run("test", "wrong.toml", str(embedder), "--json")
    assert result.exit_code == 1
    good, bad = sorted(json.loads(result.output), key=lambda each: str(each["model"]))
    assert (good["model"], good["ok"], good["reason"]) == ("embedder", True, "OK")
    assert (bad["model"], bad["ok"], bad["reason"]) == (
        "tinychat_unary", False, "CANARY_WRONG_ANSWER"
    )  # fmt: skip
    assert "expected 'Two fast reply may', got 'One slow reply may'" in bad["detail"]
    assert bad["seconds"] > 0


def test_the_canaries_of_a_sidecar(run: Run, triton_server: TritonServer) -> None:
    canary = (ROOT / "triton_models" / "embedder" / "canary.toml").read_text()
    head = f'[triton]\ngrpc = "{triton_server.grpc}"\nmodels = ["embedder", "tinychat"]\n'
    Path("sidecar.toml").write_text(head + canary)
    result = run("test", "--config=sidecar.toml", "--json", triton=False)
    assert result.exit_code == 0, result.output
    derived = {each["model"]: each["derived"] for each in json.loads(result.output)}
    assert derived == {"embedder": False, "tinychat": True}
    listed = run("list", "--config=sidecar.toml", triton=False)
    assert "from its metadata" in listed.output


def test_a_broken_file_is_one_line_that_names_it(run: Run) -> None:
    Path("broken.toml").write_text('[canary.m]\ninputs = []\nexpect = [{ output = "x" }]\n')
    result = run("test", "broken.toml")
    assert isinstance(result.exception, ConfigError)
    assert "broken.toml: canary.m." in str(result.exception)
    Path("other.toml").write_text("[triton]\n")
    assert "expected [canary.MODEL] tables" in str(
        run("list", "other.toml", triton=False).exception
    )


@pytest.mark.parametrize("arguments", [("test",), ("list",), ("test", "a.toml", "--config=b.toml")])
def test_a_call_that_says_too_little_or_too_much(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments, triton=False).exit_code == 2
