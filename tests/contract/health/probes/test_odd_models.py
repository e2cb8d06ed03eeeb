"""Canaries of healthy models whose answers differ from their config, against a real Triton."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.events import Event, VerdictChanged
from sidecar.health.canary.definition import Canary
from sidecar.health.canary.derived_canary import DerivedCanary
from sidecar.health.canary.examine import Examined, examine_all
from sidecar.health.probes.prober import ProbedTriton, Prober
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import Rejected
from sidecar.settings.tables.health import HealthSettings
from sidecar.triton.api import InferenceRequest, ModelDescription
from sidecar.triton.client import Triton
from sidecar.triton.tensors import tensor
from sidecar.verdict.evidence import Level, Reason
from sidecar.verdict.verdict_line import State
from tests.support.canary_commands import Run, caller, recorded, refused
from tests.support.triton_server import TritonServer

pytestmark = pytest.mark.contract
MODELS = (
    "otherwise",
    "unbatched",
    "silent_stream",
    "blob",
    "no_inputs",
    "asks_parameters",
    "named_sequences",
)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with TritonServer.running(tmp_path_factory.mktemp("odd"), *MODELS) as server:
        yield server


@pytest.fixture
async def triton(odd: TritonServer) -> AsyncIterator[Triton]:
    async with Triton(odd.grpc) as triton:
        yield triton


@pytest.fixture
def run(odd: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return caller(odd)


async def _derived(triton: Triton, model: str) -> Examined:
    (found,) = await examine_all(triton, [], {model: DerivedCanary()})
    return found


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("otherwise", "MATRIX: shape: expected [1], got [1, 1]"),
        ("unbatched", "Y: shape: expected [1, 2], got [2]"),
        ("silent_stream", "TEXT: "),
    ],
)
async def test_a_healthy_model_whose_answers_differ_from_its_config_passes(
    triton: Triton, model: str, why: str
) -> None:
    found = await _derived(triton, model)
    assert found.finding.reason is Reason.CANARY_NEVER_PASSED
    assert found.finding.level is Level.WARNING
    assert found.finding.detail.startswith(why)


@pytest.mark.parametrize("model", ["otherwise", "unbatched", "silent_stream"])
async def test_a_sidecar_serves_such_a_model_with_a_warning_from_the_start(
    triton: Triton, model: str
) -> None:
    said: list[State] = []

    def hook(event: Event) -> None:
        if isinstance(event, VerdictChanged):
            said.append(event.after.state)

    prober = Prober(
        ProbedTriton(triton, [model]), [], HealthSettings(fall=1).rules, SystemClock(), hook
    )
    tasks = [asyncio.create_task(loop()) for loop in prober.loops().values()]
    async for verdict in prober.assessment.verdict:
        if verdict.serving:
            break
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert said[-1] is State.WARNING
    assert State.CRITICAL not in said


def test_the_actual_answers_are_recorded_and_their_differences_reported(run: Run) -> None:
    result = run("record", "otherwise")
    assert result.exit_code == 0, result.output
    for line in (
        "MATRIX: ",
        "SCALAR: ",
        "WIDER: ",
        "MORE: ",
        "NEVER: ",
        "MASKED: 2 of 3 elements are infinite",
    ):
        assert line in result.output
    wanted = {each["output"]: each for each in recorded("otherwise")["expect"]}
    assert wanted["MATRIX"]["shape"] == [1, 1]
    assert wanted["SCALAR"]["shape"] == []
    assert wanted["WIDER"]["datatype"] == "FP64"
    assert wanted["MORE"]["equals"] == [1, 2, 3]
    assert wanted["MASKED"]["allclose"] == [1.0, float("-inf"), float("-inf")]
    assert run("test", "canary.toml").exit_code == 0


def test_an_answer_without_the_batch_dimension_is_recorded(run: Run) -> None:
    result = run("record", "unbatched")
    assert result.exit_code == 0, result.output
    assert re.search(r"Y: .*FP32 \[2\].*FP32 \[-1, 2\]", result.output)
    assert run("test", "canary.toml").exit_code == 0


def test_a_stream_that_answers_only_some_inputs_is_recorded_with_those_inputs(run: Run) -> None:
    line = refused(run("record", "silent_stream"), 1)
    assert line.endswith("other inputs may, with --input or --inputs")
    result = run("record", "silent_stream", "--input=TEXT=who?")
    assert result.exit_code == 0, result.output
    assert recorded("silent_stream")["expect"][0]["equals"] == ["who?"]


def test_bytes_that_are_not_utf8_are_recorded_and_compared_as_bytes(run: Run) -> None:
    result = run("record", "blob")
    assert result.exit_code == 0, result.output
    assert r"b'\x80\x01\xfe'" in result.output
    assert recorded("blob")["expect"][0]["equals"] == [{"hex": "80 01 fe"}]
    assert run("test", "canary.toml").exit_code == 0
    text = Path("canary.toml").read_text()
    Path("canary.toml").write_text(text.replace('data = ["Hello"]', 'data = [{ hex = "9901FF" }]'))
    result = run("test", "canary.toml")
    assert result.exit_code == 1
    assert r"expected b'\x80\x01\xfe', got b'\x99\x01\xff'" in result.output
    result = run("record", "blob", '--input=X=[{"base64": "mQH/"}]', "--force")
    assert result.exit_code == 0, result.output
    assert recorded("blob")["expect"][0]["equals"] == [{"hex": "99 01 ff"}]


def test_a_model_without_inputs_is_recorded_tested_and_listed(run: Run) -> None:
    assert run("record", "no_inputs").exit_code == 0
    assert recorded("no_inputs")["inputs"] == []
    assert recorded("no_inputs")["expect"][0]["equals"] == ["release 7"]
    assert run("test", "canary.toml").exit_code == 0
    assert "no inputs" in run("list", "canary.toml", triton=False).output
    Path("canary.toml").write_text(
        '[canary.no_inputs]\nexpect = [{ output = "VERSION", contains = "7" }]\n'
    )
    assert run("test", "canary.toml").exit_code == 0
    Path("inputs.json").write_text("[]")
    assert run("record", "no_inputs", "--inputs=inputs.json", "--force").exit_code == 0


async def test_a_model_without_inputs_gets_a_derived_canary(triton: Triton) -> None:
    assert (await _derived(triton, "no_inputs")).finding.ok


def test_parameters_and_an_id_are_recorded_and_sent(run: Run) -> None:
    assert "expected an id" in refused(run("record", "asks_parameters"), 1)
    flags = ("--parameter=mode=fast", "--parameter=n=5", "--parameter=half=0.5", "--id=probe")
    result = run("record", "asks_parameters", *flags, "--parameter=sure=true")
    assert result.exit_code == 0, result.output
    written = recorded("asks_parameters")
    assert written["parameters"] == {"mode": "fast", "n": 5, "half": 0.5, "sure": True}
    assert written["id"] == "probe"
    heard = '{"half": 0.5, "mode": "fast", "n": 5, "sure": true}'
    assert written["expect"][0]["equals"] == ["probe", heard]
    assert run("test", "canary.toml").exit_code == 0
    listed = run("list", "canary.toml", triton=False).output
    assert "id 'probe'" in listed
    assert "parameter mode 'fast'" in listed
    text = Path("canary.toml").read_text()
    Path("canary.toml").write_text(text.replace('id = "probe"', ""))
    failed = run("test", "canary.toml")
    assert (failed.exit_code, "CANARY_FAILED" in failed.output) == (1, True)
    Path("inputs.json").write_text(
        '{"id": "a", "parameters": {"mode": "slow"},'
        ' "inputs": [{"name": "X", "datatype": "INT32", "shape": [1], "data": [2]}]}'
    )
    assert run("record", "asks_parameters", "--inputs=inputs.json", "--force").exit_code == 0
    assert recorded("asks_parameters")["expect"][0]["equals"] == ["a", '{"mode": "slow"}']
    line = refused(run("record", "asks_parameters", "--parameter=triton_x=1", "--force"))
    assert line.startswith("--parameter: ")
    assert line.endswith("'triton_x'")


@pytest.mark.parametrize("name", ["triton_x", "triton_final_response"])
async def test_triton_reserves_names_of_parameters(triton: Triton, name: str) -> None:
    canary = Canary("asks_parameters", (), (), parameters={name: 1})
    step = {"X": tensor("INT32", [1], [1])}
    question = replace(canary, steps=(step,)).request(ModelDescription("asks_parameters"))
    with pytest.raises(Rejected, match="reserved for Triton usage"):
        await triton.infer(question, 10.0)


def _values(*values: int) -> InferenceRequest:
    steps = tuple({"VALUE": tensor("INT32", [1, 1], [value])} for value in values)
    return InferenceRequest("named_sequences", steps, stateful=True, string_ids=True)


async def test_all_steps_of_a_sequence_with_a_string_id_are_sent(triton: Triton) -> None:
    described = await triton.describe("named_sequences", 10.0)
    assert described.string_ids
    answers = [await triton.infer(_values(2, 40), 60.0) for _ in range(3)]
    assert [answer.outputs["SUM"].array.item() for answer in answers] == [42] * 3
    names = {answer.outputs["SEQUENCE"].array.item() for answer in answers}
    assert len(names) == 3
    assert {(len(name), name[:15]) for name in names} == {(128, b"triton-sidecar-")}


async def test_an_interrupted_sequence_with_a_string_id_is_ended(triton: Triton) -> None:
    with pytest.raises(Rejected):
        await triton.infer(_values(1, -1), 60.0)
    answer = await triton.infer(_values(5, 6), 20.0)  # the model has one sequence slot
    assert answer.outputs["SUM"].array.item() == 11


async def test_a_numeric_id_is_rejected_by_a_model_with_string_ids(triton: Triton) -> None:
    with pytest.raises(Rejected, match=r"INVALID_ARGUMENT: .* for inference input 'ID'"):
        await triton.infer(replace(_values(1), string_ids=False), 60.0)


def test_a_sequence_with_a_string_id_is_recorded_and_tested(run: Run) -> None:
    step = '[{"name": "VALUE", "datatype": "INT32", "shape": [1, 1], "data": [[%d]]}]'
    Path("steps.json").write_text(f'{{"steps": [{step % 2}, {step % 40}]}}')
    result = run("record", "named_sequences", "--inputs=steps.json")
    assert result.exit_code == 0, result.output
    wanted = {each["output"]: each for each in recorded("named_sequences")["expect"]}
    assert wanted["SUM"]["equals"] == [42]
    assert "equals" not in wanted["SEQUENCE"]
    assert run("test", "canary.toml").exit_code == 0


def test_the_answers_of_this_model_differ_from_its_config(run: Run) -> None:
    assert run("record", "otherwise").exit_code == 0
    path = Path("canary.toml")
    path.write_text(path.read_text().replace("equals = [1, 2, 3]", "equals = [1, 2, 4]"))
    result = run("test", "canary.toml")
    assert result.exit_code == 1
    assert "CANARY_WRONG_ANSWER" in result.output
