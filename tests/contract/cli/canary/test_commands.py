"""`triton-sidecar canary` against a real Triton."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.canary_commands import Run, caller, recorded, refused
from tests.support.triton_server import TritonServer

pytestmark = pytest.mark.contract
ROOT = Path(__file__).resolve().parents[4]
PARAMETERS = 'sampling_parameters={"max_tokens": 4, "temperature": 0}'


@pytest.fixture
def run(triton_server: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    return caller(triton_server)


def test_a_deterministic_answer_is_recorded_tested_and_listed(run: Run) -> None:
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
    assert "text_input BYTES [1] 'Hello'" in listed.output
    assert "text_output: equals ['One slow reply may']" in listed.output
    assert "canary.toml" in listed.output


def test_missing_inputs_are_derived_and_the_output_says_so(run: Run) -> None:
    result = run("record", "echo_types", "--times=2")
    assert result.exit_code == 0, result.output
    assert "derived from the model's metadata" in result.output
    assert len(recorded("echo_types")["expect"]) == 14
    assert run("test", "canary.toml").exit_code == 0


def test_an_output_that_differs_between_answers_is_reported_and_not_expected(run: Run) -> None:
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


def test_long_tensors_are_written_next_to_the_canary_file(run: Run) -> None:
    np.save("payload.npy", np.linspace(0, 1, 500, dtype=np.float32))
    Path("deep/er").mkdir(parents=True)
    flags = ("--input=text=ready", "--input=payload=@payload.npy", "--output=deep/er/my.toml")
    result = run("record", "embedder", *flags)
    assert result.exit_code == 0, result.output
    assert "my.echo.npy: written next to it, 500 elements" in result.output
    written = recorded("embedder", "deep/er/my.toml")
    assert [each.get("file") for each in written["inputs"]] == [None, "../../payload.npy"]
    assert {path.name for path in Path("deep/er").iterdir()} >= {"my.toml", "my.echo.npy"}
    assert not list(Path("deep/er").glob(".*"))
    assert run("test", "deep/er/my.toml").exit_code == 0
    assert "my.toml: exists already" in refused(run("record", "embedder", *flags))
    Path("deep/er/my.toml").unlink()
    assert "npy: exists already" in refused(run("record", "embedder", *flags))


def test_overwriting_a_canary_removes_the_files_of_the_old_one(run: Run) -> None:
    np.save("canary.mine.npy", np.linspace(0, 1, 500, dtype=np.float32))
    flags = ("--input=text=ready", "--input=payload=@canary.mine.npy")
    assert run("record", "embedder", *flags).exit_code == 0
    assert Path("canary.echo.npy").is_file()
    result = run("record", "embedder", "--input=text=ready", "--force")
    assert result.exit_code == 0, result.output
    assert "canary.echo.npy: removed" in result.output
    assert {path.name for path in Path().iterdir()} == {
        "canary.toml", "canary.embedding.npy", "canary.mine.npy"
    }  # fmt: skip


def test_an_input_is_never_overwritten(run: Run) -> None:
    np.save("canary.echo.npy", np.linspace(0, 1, 500, dtype=np.float32))
    flags = ("--input=text=ready", "--input=payload=@canary.echo.npy", "--force")
    assert "an input is read from it" in refused(run("record", "embedder", *flags))
    assert np.load("canary.echo.npy").size == 500


def test_an_existing_file_is_overwritten_only_with_force(run: Run) -> None:
    Path("canary.toml").write_text("precious")
    flags = (f"--input={PARAMETERS}", "--input=text_input=Hello")
    line = refused(run("record", "tinychat_unary", *flags))
    assert "canary.toml: exists already" in line
    assert Path("canary.toml").read_text() == "precious"
    forced = run("record", "tinychat_unary", *flags, "--force")
    assert forced.exit_code == 0
    assert recorded("tinychat_unary")


@pytest.mark.parametrize(
    ("flags", "status", "why"),
    [
        (("nothing",), 1, "nothing: NOT_FOUND: Request for unknown model"),
        (("counter", "--input=VALUE=1"), 2, "--input: "),
        (("counter", "--input=VALUE=-1", "--input=SECONDS=0"), 1, "negative"),
        (("tinychat", f"--input={PARAMETERS}"), 2, "found no text_input"),
        (("tinychat", "--input=text_input=a", "--input=text_input=b"), 2, "expected once"),
        (("embedder", "--input=text=a", "--input=payload=[[1,2],[3]]"), 2, "--input payload: "),
        (("counter", "--input=VALUE=1", "--input=SECONDS=9", "--timeout=0.1"), 1, "within 0.1 s"),
        (("counter", "--input=VALUE=1", "--inputs=x.json"), 2, "not both"),
        (("counter", "--inputs=x.json"), 2, "--inputs x.json: expected a file"),
    ],
)
def test_a_failed_record_writes_no_file(
    run: Run, flags: tuple[str, ...], status: int, why: str
) -> None:
    assert why in refused(run("record", *flags), status)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("output", ["", ".", "none/x.toml", "/dev/null", "/proc/x.toml", "x" * 300])
def test_an_unwritable_output_is_reported_before_the_request_is_sent(run: Run, output: str) -> None:
    # A request would fail with another error: no Triton listens at this address.
    flags = (f"--output={output}", "--force", "--triton=127.0.0.1:1")
    line = refused(run("record", "counter", *flags, triton=False))
    assert line.startswith("--output")
    assert not list(Path().iterdir())


def test_a_wrong_answer_is_in_the_exit_status_and_in_the_json(run: Run) -> None:
    right = ROOT / "triton_models" / "tinychat_unary" / "canary.toml"
    Path("wrong.toml").write_text(right.read_text().replace("One slow", "Two fast"))
    embedder = ROOT / "triton_models" / "embedder" / "canary.toml"
    result = run("test", "wrong.toml", str(embedder), "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["done"] is False
    assert "tinychat_unary: CANARY_WRONG_ANSWER: " in document["why"]
    good, bad = document["canaries"]
    assert (good["model"], good["ok"], good["reason"]) == ("embedder", True, "OK")
    assert (bad["model"], bad["ok"], bad["reason"]) == (
        "tinychat_unary", False, "CANARY_WRONG_ANSWER"
    )  # fmt: skip
    assert "expected 'Two fast reply may', got 'One slow reply may'" in bad["detail"]
    assert bad["seconds"] > 0


def test_the_canaries_of_a_settings_file_are_tested_and_listed(
    run: Run, triton_server: TritonServer
) -> None:
    canary = (ROOT / "triton_models" / "embedder" / "canary.toml").read_text()
    head = f'[triton]\ngrpc = "{triton_server.grpc}"\nmodels = ["embedder", "tinychat"]\n'
    Path("sidecar.toml").write_text(head + canary)
    result = run("test", "--config=sidecar.toml", "--json", triton=False)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["canaries"]
    derived = {each["model"]: each["derived"] for each in found}
    assert derived == {"embedder": False, "tinychat": True}
    listed = run("list", "--config=sidecar.toml", triton=False)
    assert "derived inputs" in listed.output
    assert "sidecar.toml" in listed.output


def test_the_triton_of_a_settings_file_is_queried(run: Run, triton_server: TritonServer) -> None:
    head = f'[triton]\ngrpc = "{triton_server.grpc}"\nmodels = ["counter"]\n'
    Path("sidecar.toml").write_text(f'{head}canaries = ["canaries/*.toml"]\n')
    Path("canaries").mkdir()
    flags = ("--input=VALUE=3", "--input=SECONDS=0", "--output=canaries/counter.toml")
    result = run("record", "counter", *flags, "--config=sidecar.toml", triton=False)
    assert result.exit_code == 0, result.output
    assert run("test", "--config=sidecar.toml", triton=False).exit_code == 0
    listed = run("list", "--config=sidecar.toml", triton=False)
    assert "canaries/counter.toml" in listed.output


def test_a_correct_answer_after_the_canarys_timeout_fails(run: Run) -> None:
    right = (ROOT / "triton_models" / "tinychat_unary" / "canary.toml").read_text()
    Path("late.toml").write_text(right.replace('timeout = "2s"', "timeout = 0.000001"))
    result = run("test", "late.toml", "--json")
    assert result.exit_code == 1
    (late,) = json.loads(result.stdout)["canaries"]
    assert late["reason"] == "CANARY_LATE"
    assert "above timeout (1e-06 s)" in late["detail"]
    assert late["seconds"] > 1e-6


def test_the_size_of_answers_is_limited_as_in_a_sidecar(
    run: Run, triton_server: TritonServer
) -> None:
    head = f'[triton]\ngrpc = "{triton_server.grpc}"\nmodels = ["embedder"]\n'
    head += 'canaries = ["canary.toml"]\n[health]\nmax_answer = '
    np.save("payload.npy", np.linspace(0, 1, 5 * 2**20, dtype=np.float32))
    flags = ("--input=text=ready", "--input=payload=@payload.npy", "--times=1", "--force")
    too_large = "embedder: the answer has more than 16777216 bytes"
    assert refused(run("record", "embedder", *flags), 1).startswith(too_large)
    assert not Path("canary.toml").exists()
    Path("sidecar.toml").write_text(f"{head}33554432\n")
    result = run("record", "embedder", *flags, "--config=sidecar.toml", triton=False)
    assert result.exit_code == 0, result.output
    assert run("test", "--config=sidecar.toml", triton=False).exit_code == 0
    assert "CANARY_TOO_LARGE" in run("test", "canary.toml").output
    assert run("test", "canary.toml", "--max-answer=33554432").exit_code == 0
    Path("sidecar.toml").write_text(f"{head}1024\n")
    for call in (
        ("test", "--config=sidecar.toml"),
        ("record", "embedder", *flags, "--config=sidecar.toml", "--output=other.toml"),
    ):
        result = run(*call, triton=False)
        assert result.exit_code == 1
    assert not Path("other.toml").exists()


def test_an_unknown_model_is_reported_with_tritons_message(run: Run) -> None:
    right = (ROOT / "triton_models" / "tinychat_unary" / "canary.toml").read_text()
    Path("other.toml").write_text(right.replace("tinychat_unary", "nothing"))
    result = run("test", "other.toml", "--json")
    assert result.exit_code == 1
    assert "unknown model: 'nothing'" in json.loads(result.stdout)["canaries"][0]["detail"]


@pytest.mark.parametrize("verb", ["record", "test"])
def test_an_unreachable_triton_has_its_own_exit_status(run: Run, verb: str) -> None:
    canary = str(ROOT / "triton_models" / "embedder" / "canary.toml")
    what = "embedder" if verb == "record" else canary
    line = refused(run(verb, what, "--triton=127.0.0.1:1", triton=False), 3)
    assert "127.0.0.1:1" in line
    assert line.endswith("Connection refused")


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("CANARY", "--triton=127.0.0.1:1"), 3, "127.0.0.1:1"),
        (("CANARY", "--triton=nowhere"), 2, "expected host:port"),
        (("none.toml", "--triton=127.0.0.1:1"), 2, "none.toml: expected a"),
        (("--triton=127.0.0.1:1",), 2, "--config"),
    ],
)
def test_the_json_says_why_no_request_was_sent(
    run: Run, arguments: tuple[str, ...], status: int, error: str
) -> None:
    canary = str(ROOT / "triton_models" / "embedder" / "canary.toml")
    named = [canary if argument == "CANARY" else argument for argument in arguments]
    result = run("test", *named, "--json", triton=False)
    assert result.exit_code == status
    document = json.loads(result.stdout)
    assert document["done"] is False
    assert error in document["why"]


def test_an_invalid_file_is_reported_in_one_line_with_its_name(run: Run) -> None:
    Path("broken.toml").write_text('[canary.m]\nexpect = [{ output = "x" }]\n')
    result = run("test", "broken.toml")
    assert result.exit_code == 2
    assert "broken.toml: canary.m." in result.stderr
    Path("other.toml").write_text("[triton]\n")
    line = refused(run("list", "other.toml", triton=False))
    assert "expected [canary.MODEL] tables" in line


@pytest.mark.parametrize("arguments", [("test",), ("list",), ("test", "a.toml", "--config=b.toml")])
def test_missing_or_conflicting_arguments_are_usage_errors(
    run: Run, arguments: tuple[str, ...]
) -> None:
    assert run(*arguments, triton=False).exit_code == 2
