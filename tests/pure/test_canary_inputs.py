"""Inputs of a canary as they are given on the command line."""

import json
from pathlib import Path

import pytest

from sidecar.cli.canary_inputs import from_file, from_flags
from sidecar.errors import ConfigError
from sidecar.triton_api import ModelDescription, TensorSpec

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
def test_a_value_is_laid_out_as_the_model_wants_it(
    flag: str, shape: list[int], data: list[object]
) -> None:
    (table,) = from_flags([flag], MODEL)
    assert (table["shape"], table["data"]) == (shape, data)


def test_a_file_has_the_shape_of_the_input_unless_it_says_its_own() -> None:
    image, array = from_flags(["image=@cat.png", "any=@/data/x.npy"], MODEL)
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
        ("ids=1.5", "--input: ids: data: expected elements of datatype INT64, found 1.5"),
        ("flag=1", "datatype BOOL, found 1"),
        (
            "image=[1, 2]",
            r"--input image: expected elements for the shape \[-1, 3, 8, 8\], found 2",
        ),
        ("ids=null", "--input: ids.data: expected a flat list"),
    ],
)
def test_a_mistake_is_one_line(flag: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        from_flags([flag], MODEL)
    assert "\n" not in str(caught.value)


def test_a_file_of_inputs_in_each_form(tmp_path: Path) -> None:
    given = {"name": "ids", "datatype": "INT64", "shape": [2, 2], "data": [[1, 2], [3, 4]]}
    flat = {**given, "data": [1, 2, 3, 4]}
    path = tmp_path / "inputs.json"
    for document in ([given], {"inputs": [given]}, {"steps": [[given]]}):
        path.write_text(json.dumps(document))
        assert from_file(path) == [[flat]]
    path.write_text(json.dumps({"steps": [[given], [given]]}))
    assert from_file(path) == [[flat], [flat]]
    path.write_text(json.dumps([{"name": "x", "datatype": "FP32", "file": "x.npy"}]))
    assert from_file(path)[0][0]["file"] == str(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "expected JSON"),
        ("[]", "expected a list of inputs"),
        ("7", "expected a list of inputs"),
        ('{"steps": []}', "expected a list of inputs"),
        ('{"steps": [7]}', "expected a list of inputs"),
        ('[{"name": "x", "datatype": "FP7", "shape": [1], "data": [1]}]', "x.datatype"),
        ('[{"name": "x", "datatype": "FP32", "shape": [2], "data": [1]}]', "expected 2 elements"),
        ('[{"datatype": "FP32", "shape": [1], "data": [1]}]', "name"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "inputs.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=why) as caught:
        from_file(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="No such file"):
        from_file(Path("/nowhere/inputs.json"))
