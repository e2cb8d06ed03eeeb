"""A canary's inputs as given on the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cli.canary import request_fields
from sidecar.cli.canary.input_parsing import Step, from_file, from_flags, tensors
from sidecar.cli.canary.request_fields import RequestFields
from sidecar.runtime.errors import ConfigError
from sidecar.triton.api import ModelDescription, TensorSpec

pytestmark = pytest.mark.files

MODEL = ModelDescription(
    "m",
    inputs=(
        TensorSpec("text", "BYTES", (-1, 1)),
        TensorSpec("ids", "INT64", (-1, -1)),
        TensorSpec("image", "FP32", (-1, 3, 8, 8)),
        TensorSpec("flag", "BOOL", (1,)),
        TensorSpec("any", "FP32", (-1,)),
    ),
    max_batch_size=8,
)


@pytest.mark.parametrize(
    ("flag", "shape", "data"),
    [
        ("text=Hello", [1, 1], ["Hello"]),
        ("text=a=b", [1, 1], ["a=b"]),
        ("text=", [1, 1], [""]),
        ('text={"max_tokens": 4}', [1, 1], ['{"max_tokens": 4}']),
        ("text=[INST] hi", [1, 1], ["[INST] hi"]),
        ("text=7", [1, 1], ["7"]),
        ('text=["a", "b"]', [2, 1], ["a", "b"]),
        ("ids=[1, 2, 3]", [1, 3], [1, 2, 3]),
        ("ids=[[1, 2], [3, 4]]", [2, 2], [1, 2, 3, 4]),
        ("ids=5", [1, 1], [5]),
        ("flag=true", [1], [True]),
        ("any=0.5", [1], [0.5]),
    ],
)
def test_a_value_gets_the_datatype_and_shape_of_the_input(
    flag: str, shape: list[int], data: list[object]
) -> None:
    (table,) = from_flags([flag], MODEL).tables
    assert (table["shape"], table["data"]) == (shape, data)


def test_a_file_gets_the_shape_of_the_input_unless_it_has_one() -> None:
    image, array = from_flags(["image=@cat.png", "any=@/data/x.npy"], MODEL).tables
    assert image == {
        "name": "image",
        "datatype": "FP32",
        "shape": [1, 3, 8, 8],
        "file": str(Path("cat.png").absolute()),
    }
    assert array == {"name": "any", "datatype": "FP32", "file": "/data/x.npy"}


@pytest.mark.parametrize(
    ("flag", "why"),
    [
        ("text", "--input: expected NAME=VALUE, found 'text'"),
        ("txt=x", r"--input txt: expected one of the inputs text \(BYTES\)"),
        ("ids=x", "--input ids: expected INT64 as a number or JSON, or @FILE, found 'x'"),
        ("ids=1.5", "--input ids: expected elements of datatype INT64, found 1.5"),
        ("flag=1", "datatype BOOL, found 1"),
        (
            "image=[1, 2]",
            r"--input image: expected elements for the shape \[-1, 3, 8, 8\], found 2",
        ),
        ("ids=null", "--input ids: expected a flat list"),
        ("ids=[[1, 2], [3]]", "--input ids: expected lists of equal length at each level"),
        ("ids=[[1, 2], 3]", "--input ids: expected lists of equal length at each level"),
        ('text=[["a"], ["b", "c"]]', "--input text: expected lists of equal length at each level"),
        (
            "image=[[1, 2], [3, 4]]",
            r"--input image: expected the shape \[-1, 3, 8, 8\], found \[2, 2\]",
        ),
        (f"ids={'[' * 100_000}", "--input ids: expected INT64 as a number or JSON"),
    ],
)
def test_a_mistake_is_reported_in_one_line(flag: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        from_flags([flag], MODEL)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_an_input_can_be_given_only_once() -> None:
    with pytest.raises(ConfigError) as caught:
        from_flags(["text=a", "text=b", "text=c"], MODEL)
    assert str(caught.value) == "--input text: expected once"


numbers = st.recursive(st.integers(-9, 9), lambda inner: st.lists(inner, max_size=3), max_leaves=9)


@given(numbers)
def test_nested_lists_are_accepted_as_by_numpy_or_refused(nested: object) -> None:
    described = ModelDescription("m", inputs=(TensorSpec("x", "INT64", (-1, -1)),))
    try:
        array = np.array(nested, dtype=np.int64)
    except ValueError:
        array = None
    try:
        (table,) = from_flags([f"x={json.dumps(nested)}"], described).tables
    except ConfigError:
        assert array is None or array.ndim != 2
        return
    assert array is not None
    assert table["data"] == array.ravel().tolist()
    assert array.ndim < 2 or table["shape"] == [*array.shape]


@pytest.mark.parametrize("content", ["[]", '{"inputs": []}', '{"steps": [[]]}'])
def test_a_model_without_inputs_needs_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "inputs.json"
    path.write_text(content)
    assert [step.tables for step in from_file(path)] == [[]]


def test_parameters_and_id_from_flags_override_those_of_a_file(tmp_path: Path) -> None:
    flags = request_fields.from_flags(
        ["a=true", "b=5", "c=0.5", "d=fast", 'e="5"', "f=[1]", "g=x=y", "h=null"], None
    )
    assert flags.parameters == {
        "a": True, "b": 5, "c": 0.5, "d": "fast", "e": "5", "f": "[1]", "g": "x=y", "h": "null"
    }  # fmt: skip
    path = tmp_path / "inputs.json"
    path.write_text('{"inputs": [], "id": "p", "parameters": {"a": false, "z": 1}}')
    assert request_fields.from_file(path) == RequestFields({"a": False, "z": 1}, "p")
    both = flags.over(request_fields.from_file(path))
    assert (both.parameters["a"], both.parameters["z"], both.id) == (True, 1, "p")
    assert RequestFields(id="q").over(both).id == "q"
    path.write_text("[]")
    assert request_fields.from_file(path) == RequestFields()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"id": 5}', "--inputs .*: id: expected a string, found 5$"),
        ('{"parameters": [1]}', r"parameters: expected a table .* found \[1\]$"),
        (
            '{"parameters": {"a": {}}}',
            "parameters: expected strings, .* found another value of 'a'",
        ),
    ],
)
def test_invalid_parameters_and_ids_are_refused(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "inputs.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=why):
        request_fields.from_file(path)
    for flags, message in (
        (["a"], "--parameter: expected NAME=VALUE, found 'a'"),
        (["a=1", "a=2"], "--parameter a: expected once"),
        (["timeout=1"], "--parameter: expected no timeout"),
        (["a=1e999"], "--parameter: expected strings"),
    ):
        with pytest.raises(ConfigError, match=message):
            request_fields.from_flags(flags, None)


def test_a_file_of_inputs_is_read_in_each_format(tmp_path: Path) -> None:
    given = {"name": "ids", "datatype": "INT64", "shape": [2, 2], "data": [[1, 2], [3, 4]]}
    flat = {**given, "data": [1, 2, 3, 4]}
    path = tmp_path / "inputs.json"
    for document in ([given], {"inputs": [given]}, {"steps": [[given]]}):
        path.write_text(json.dumps(document))
        assert [step.tables for step in from_file(path)] == [[flat]]
    path.write_text(json.dumps({"steps": [[given], [given]]}))
    assert [step.tables for step in from_file(path)] == [[flat], [flat]]
    path.write_text(json.dumps([{"name": "x", "datatype": "FP32", "file": "x.npy"}]))
    assert from_file(path)[0].tables[0]["file"] == str(tmp_path / "x.npy")


X = '{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]'


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "expected JSON"),
        ("{}", "expected a list of inputs"),
        ("7", "expected a list of inputs"),
        ('{"steps": []}', "expected a list of inputs"),
        ('{"steps": [7]}', "expected a list of inputs"),
        (
            '[{"name": "x", "datatype": "FP7", "shape": [1], "data": [1]}]',
            "x: datatype: expected 'BOOL', .*, found 'FP7'$",
        ),
        ('[{"name": 5, "datatype": "FP32", "shape": [1], "data": [1]}]', "5: name: expected a str"),
        (f'[{X}, "odd": 1}}]', "x: odd: a canary sends none; expected name, datatype, shape, data"),
        (f"[{X.replace('[1]', '[-1]', 1)}}}]", "x: shape.0: expected at least 0, found -1$"),
        ('[{"name": "x", "datatype": "FP32", "shape": [2], "data": [1]}]', "expected 2 elements"),
        (
            '[{"datatype": "FP32", "shape": [1], "data": [1]}]',
            r"\?: name: missing; expected a string$",
        ),
        ('{"steps": [], "inputs": []}', "expected a list of inputs"),
        (f'[{X}, "parameters": {{"binary_data_size": 4}}}}]', "x: parameters: a canary sends none"),
        (f"[{X}}}, {X}}}]", "inputs.json: x: expected once$"),
        (f'{{"steps": [[{X}}}], [{X}}}, {X}}}]]}}', "inputs.json: steps.1: x: expected once$"),
        (f"[{X[:-3]}[[1], [2, 3]]}}]", "x: data: expected lists of equal length"),
        (f"[{X[:-3]}[[1, 2]]}}]", r"x: data: expected the shape \[1\], found \[1, 2\]"),
    ],
)
def test_a_file_of_inputs_in_another_format_is_refused(
    tmp_path: Path, content: str, why: str
) -> None:
    path = tmp_path / "inputs.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=why) as caught:
        from_file(path)
    assert str(caught.value).startswith(f"--inputs {path}: ")
    assert "\n" not in str(caught.value)


def test_empty_parameters_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "inputs.json"
    path.write_text(f'{{"id": "1", "parameters": {{}}, "inputs": [{X}, "parameters": {{}}}}]}}')
    assert from_file(path)[0].tables[0].keys() == {"name", "datatype", "shape", "data"}


def test_a_missing_file_is_reported() -> None:
    with pytest.raises(ConfigError, match="expected a file of inputs in JSON: No such file"):
        from_file(Path("/nowhere/inputs.json"))


def test_the_contents_of_files_are_sent(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones(3, np.float32))
    described = ModelDescription("m", inputs=(TensorSpec("any", "FP32", (-1,)),))
    (values,) = tensors([from_flags([f"any=@{tmp_path}/x.npy"], described)], described)
    assert values["any"].array.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["ids=@FOLDER/bad.npy"], "--input ids: FOLDER/bad.npy: expected elements of datatype"),
        (["ids=@FOLDER/none.npy"], "--input ids: FOLDER/none.npy: expected a file"),
        (["any=[1, 2]"], "--input: "),
        (["text=a", "ids=1", "flag=true", "any=1", "image=@FOLDER/wide.npy"], "--input image: "),
    ],
)
def test_a_mistake_names_the_option(tmp_path: Path, flags: list[str], why: str) -> None:
    np.save(tmp_path / "bad.npy", np.ones(3))
    np.save(tmp_path / "wide.npy", np.ones((1, 2), np.float32))
    step = from_flags([flag.replace("FOLDER", str(tmp_path)) for flag in flags], MODEL)
    with pytest.raises(ConfigError) as caught:
        tensors([step], MODEL)
    assert str(caught.value).startswith(why.replace("FOLDER", str(tmp_path)))
    assert "canary.m" not in str(caught.value)


def test_only_a_stateful_model_takes_steps() -> None:
    steps = [Step([], "--inputs x: steps.0: "), Step([], "--inputs x: steps.1: ")]
    with pytest.raises(ConfigError, match="m is not stateful"):
        tensors(steps, MODEL)
