"""Canaries with the files that they name, and the errors for unusable files."""

import contextlib
import io
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from sidecar.cli.canary.files import drafted, read_back
from sidecar.health.canary.definition import Canary
from sidecar.health.canary.expectations import AllClose, Cosine, JsonSchema
from sidecar.health.canary.input_files import read_tensor
from sidecar.runtime.errors import ConfigError
from sidecar.settings import load_sidecar
from sidecar.settings.canaries import build, build_all
from sidecar.settings.tables.canary import CanarySettings

NO_FILE = "expected a file, found none"

pytestmark = pytest.mark.files

MODELS = Path(__file__).parents[4] / "triton_models"
EXPECT = [{"output": "y", "finite": True}]


def built(given_input: dict[str, object], expect: list[dict[str, object]] | None = None) -> Canary:
    table = {"inputs": [{"name": "x"} | given_input], "expect": expect or EXPECT}
    return build("m", CanarySettings.model_validate(table))


def picture(path: Path) -> Path:
    """Four pixels wide, two high: black and red."""
    image = Pillow.new("RGB", (4, 2), (0, 0, 0))
    image.paste((255, 0, 0), (2, 0, 4, 2))
    image.save(path)
    return path


def saved(path: Path, array: object) -> Path:
    np.save(path, np.asarray(array))
    return path


def written(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_a_mistake_in_a_draft_names_the_place_where_it_would_be(tmp_path: Path) -> None:
    place = tmp_path / "canary.toml"
    with (
        pytest.raises(ConfigError) as caught,
        drafted(place, "m", {"inputs": [], "expect": []}, {}, "") as draft,
    ):
        read_back(draft, place)
    assert str(caught.value).startswith(f"{place}: canary.m.expect: expected at least 1 item")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["embedder", "tinychat", "tinychat_unary"])
def test_the_demo_canaries_are_valid(model: str) -> None:
    table = tomllib.loads((MODELS / model / "canary.toml").read_text())["canary"][model]
    canary = build(model, CanarySettings.model_validate(table))
    assert (canary.budgets.warn, canary.budgets.fail) == (0.5, 5.0)


@pytest.mark.parametrize(
    ("datatype", "array"),
    [
        ("FP32", np.array([[1.5, 2], [3, np.inf]])),
        ("FP16", np.array([1, 2], dtype=np.uint8)),
        ("BF16", np.array([1.0], dtype=">f4")),
        ("UINT64", np.array([2**64 - 1], dtype=np.uint64)),
        ("INT8", np.array([-128, 127], dtype=np.int64)),
        ("BOOL", np.array([True, False])),
        ("FP32", np.zeros((0, 3), dtype=np.float32)),
        ("FP64", np.array(1.0)),
    ],
)
def test_an_npy_file_is_an_input(tmp_path: Path, datatype: str, array: Any) -> None:
    (step,) = built({"datatype": datatype, "file": saved(tmp_path / "x.npy", array)}).steps
    assert step["x"].datatype == datatype
    assert step["x"].array.shape == array.shape
    assert np.array_equal(step["x"].array, array)


def test_text_in_an_npy_file_is_bytes(tmp_path: Path) -> None:
    file = saved(tmp_path / "x.npy", [["ä", "b"]])
    (step,) = built({"datatype": "BYTES", "file": file}).steps
    assert step["x"].array.tolist() == [["ä".encode(), b"b"]]


@pytest.mark.parametrize(
    ("datatype", "shape", "nested", "found"),
    [
        ("FP32", None, [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        ("FP32", [2, 2], [1, 2, 3, 4], [[1, 2], [3, 4]]),
        ("BYTES", None, ["a", "ä"], [b"a", "ä".encode()]),
        ("BOOL", [1, 1], [[True]], [[True]]),
        ("INT8", None, [], []),
    ],
)
def test_a_json_file_is_an_input(
    tmp_path: Path, datatype: str, shape: list[int] | None, nested: object, found: object
) -> None:
    file = written(tmp_path / "x.json", nested)
    table: dict[str, object] = {"datatype": datatype, "file": file}
    (step,) = built(table | ({"shape": shape} if shape else {})).steps
    assert step["x"].array.tolist() == found


def test_an_image_is_sent_unchanged_where_the_datatype_is_bytes(tmp_path: Path) -> None:
    file = picture(tmp_path / "x.png")
    for shape in ([1], [1, 1]):
        (step,) = built({"datatype": "BYTES", "file": file, "shape": shape}).steps
        assert step["x"].array.ravel().tolist() == [file.read_bytes()]
        assert list(step["x"].array.shape) == shape
    (step,) = built({"datatype": "BYTES", "file": file}).steps
    assert step["x"].array.shape == (1,)


def test_an_image_is_decoded_to_datatype_and_shape(tmp_path: Path) -> None:
    file = picture(tmp_path / "x.bmp")

    def decoded(datatype: str, *shape: int) -> Any:
        (step,) = built({"datatype": datatype, "shape": shape, "file": file}).steps
        assert step["x"].array.shape == shape
        return step["x"].array

    assert decoded("UINT8", 2, 4, 3)[0, :, 0].tolist() == [0, 0, 255, 255]
    assert decoded("FP32", 1, 3, 2, 8)[0, :, 0, 7].tolist() == [1.0, 0.0, 0.0]
    assert decoded("FP16", 2, 4, 4)[0, 0].tolist() == [0.0, 0.0, 0.0, 1.0]
    assert decoded("INT32", 2, 4)[0].tolist() == [0, 0, 76, 76]
    assert decoded("UINT8", 1, 4, 8)[0, 0].tolist()[0] == 0
    with pytest.raises(ConfigError, match="expected elements of datatype INT8, found 255"):
        decoded("INT8", 2, 4, 3)


def test_expectations_come_from_files(tmp_path: Path) -> None:
    vector = saved(tmp_path / "v.npy", [[1, 2]])
    schema = written(tmp_path / "s.json", {"type": "string"})
    canary = built(
        {"datatype": "INT8", "shape": [1], "data": [1]},
        [{"output": "y", "json_schema": schema}, {"output": "y", "allclose": vector, "atol": 0.5},
         {"output": "y", "cosine": vector, "at_least": 0.5}],
    )  # fmt: skip
    by_schema, close, direction = canary.expectations
    assert isinstance(by_schema, JsonSchema)
    assert by_schema.schema == {"type": "string"}
    assert isinstance(close, AllClose)
    assert (list(close.elements), close.atol) == ([1.0, 2.0], 0.5)
    assert isinstance(direction, Cosine)
    assert direction.at_least == 0.5


def test_every_kind_of_expectation_is_built() -> None:
    text: dict[str, object] = {
        "output": "y", "datatype": "BYTES", "shape": [-1], "min_length": 1, "max_length": 9,
        "equals": ["a"], "contains": "a", "regex": "a", "json_schema": {}, "not_degenerate": True,
    }  # fmt: skip
    numbers: dict[str, object] = {
        "output": "z",
        "finite": True,
        "allclose": [1],
        "cosine": [1],
        "label": 0,
        "image": True,
    }
    canary = built({"datatype": "INT8", "shape": [1], "data": [1]}, [text, numbers])
    assert [each.key for each in canary.expectations] == [
        "datatype", "shape", "length", "equals", "not_degenerate", "contains", "regex",
        "json_schema", "finite", "allclose", "cosine", "label", "image",
    ]  # fmt: skip


def test_the_other_keys_of_a_canary_are_applied() -> None:
    step = [{"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}]
    table = {"steps": [step, step], "expect": EXPECT, "timeout": "3s", "stall": "9s",
             "version": "2", "latency": {"warn": "1s", "first_fail": "2s"}}  # fmt: skip
    canary = build("m", CanarySettings.model_validate(table))
    assert len(canary.steps) == 2
    assert (canary.timeout, canary.stall, canary.version) == (3.0, 9.0, "2")
    assert (canary.budgets.warn, canary.budgets.first_fail) == (1.0, 2.0)
    assert not canary.derived


Make = Callable[[Path], object]


@pytest.mark.parametrize(
    ("name", "make", "given_input", "complaint"),
    [
        ("x.npy", None, {}, NO_FILE),
        ("x.txt", lambda p: written(p, "1"), {}, "expected a file named .npy, .json or .png"),
        ("x.npy", lambda p: written(p, "1"), {}, "expected an array as numpy.save writes it"),
        ("x.npy", lambda p: written(p, ""), {}, "expected an array as numpy.save writes it"),
        ("x.npy", lambda p: np.save(p, np.array([{}]), allow_pickle=True), {},
         "expected an array as numpy.save writes it"),
        ("x.npy", lambda p: saved(p, [1.5]), {"datatype": "INT8"},
         "expected elements of datatype INT8, found float64"),
        ("x.npy", lambda p: saved(p, [1, 128]), {"datatype": "INT8"},
         "expected elements of datatype INT8, found 128"),
        ("x.npy", lambda p: saved(p, [1, 7e4]), {"datatype": "FP16"},
         "expected elements of datatype FP16, found 70000.0"),
        ("x.npy", lambda p: saved(p, [1]), {"datatype": "BOOL"},
         "expected elements of datatype BOOL, found int64"),
        ("x.npy", lambda p: saved(p, [1]), {"datatype": "BYTES"},
         "expected elements of datatype BYTES, found int64"),
        ("x.npy", lambda p: saved(p, [[1, 2]]), {"shape": [2]},
         "expected the shape [2], found [1, 2]"),
        ("x.npy", lambda p: saved(p, [1, 2]), {"shape": [3]}, "expected the shape [3], found [2]"),
        ("x.json", lambda p: written(p, "[1"), {}, "expected JSON"),
        ("x.json", lambda p: written(p, "[" * 100_000), {}, "expected JSON"),
        ("x.json", lambda p: p.write_bytes(b"\xff"), {}, "expected JSON"),
        ("x.json", lambda p: written(p, {"a": 1}), {}, "expected a list, flat or nested"),
        ("x.json", lambda p: written(p, [[1], [1, 2]]), {}, "expected lists of equal length"),
        ("x.json", lambda p: written(p, [1, [2]]), {}, "expected elements of datatype FP32"),
        ("x.json", lambda p: written(p, [[1], 2]), {}, "expected lists of equal length"),
        ("x.json", lambda p: written(p, ["a"]), {}, "of datatype FP32, found 'a'"),
        ("x.png", lambda p: written(p, "no"), {"datatype": "BYTES"}, "expected an image in one of"),
        ("x.png", picture, {"datatype": "BYTES", "shape": [2]},
         "expected the shape [2], found [1]"),
        ("x.npy", lambda p: saved(p, np.zeros(2**23 + 1, np.uint8)), {"datatype": "FP64"},
         "expected at most 64 MiB, found [8388609] of FP64"),
        ("x.png", picture, {}, "expected a shape [height, width, channels] or"),
        ("x.png", picture, {"shape": [2, 2, 2]}, "channels, found [2, 2, 2]"),
        ("x.png", picture, {"shape": [0, 2, 3]}, "channels, found [0, 2, 3]"),
        ("x.png", picture, {"shape": [2, 2, 3], "datatype": "BOOL"}, "expected a numeric datatype"),
        ("x.png", lambda p: Pillow.new("1", (5000, 5000)).save(p), {"datatype": "BYTES"},
         "expected at most 16777216 pixels, found 5000 x 5000"),
    ],
)  # fmt: skip
def test_an_unusable_input_file_is_reported_in_one_line(
    tmp_path: Path, name: str, make: Make | None, given_input: dict[str, object], complaint: str
) -> None:
    path = tmp_path / name
    if make:
        make(path)
    with pytest.raises(ConfigError) as caught:
        built({"datatype": "FP32", "file": path} | given_input)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path}: canary.m.inputs.0.file: ")
    assert complaint in line


@pytest.mark.parametrize(
    ("key", "name", "make", "complaint"),
    [
        ("allclose", "v.npy", None, NO_FILE),
        ("allclose", "v.txt", None, "expected a file named .npy"),
        ("allclose", "v.npy", lambda p: saved(p, ["a"]), "expected numbers, found <U1 [1]"),
        ("allclose", "v.npy", lambda p: saved(p, []), "expected numbers, found float64 [0]"),
        (
            "allclose",
            "v.npy",
            lambda p: saved(p, [np.nan]),
            "expected numbers, found nan",
        ),
        (
            "allclose",
            "v.npy",
            lambda p: saved(p, [np.inf, np.nan]),
            "expected numbers, found nan",
        ),
        ("cosine", "v.npy", lambda p: saved(p, [0, 0]), "expected numbers that are not all zero"),
        ("cosine", "v.npy", lambda p: saved(p, [np.inf]), "expected finite numbers, found inf"),
        ("json_schema", "s.json", None, NO_FILE),
        (
            "json_schema",
            "s.json",
            lambda p: written(p, {"$schema": 5}),
            "expected a JSON schema: $[",
        ),
        ("json_schema", "s" * 300, None, "expected a file that can be read: File name too long"),
        ("json_schema", "s.json", lambda p: written(p, {"type": "text"}), "expected a JSON schema"),
        ("json_schema", "s.json", lambda p: written(p, [1]), "expected a JSON schema, found [1]"),
        ("json_schema", "s.json", lambda p: written(p, "{"), "expected JSON"),
    ],
)
def test_an_unusable_expectation_file_is_reported_in_one_line(
    tmp_path: Path, key: str, name: str, make: Make | None, complaint: str
) -> None:
    path = tmp_path / name
    if make:
        make(path)
    with pytest.raises(ConfigError) as caught:
        built({"datatype": "INT8", "shape": [1], "data": [1]}, [{"output": "y", key: path}])
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path}: canary.m.expect.0.{key}: {complaint}")


def test_every_mistake_of_every_model_is_reported_at_once(tmp_path: Path) -> None:
    table = """
[canary.{0}]
steps = [[{{ name = "x", datatype = "INT8", file = "{0}.npy" }}],
         [{{ name = "x", datatype = "INT8", file = "{0}.json" }}]]
expect = [{{ output = "y", cosine = "{0}.npy" }}]
"""
    text = "[triton]\nmodels = ['a', 'b']\n" + table.format("a") + table.format("b")
    found = load_sidecar(written(tmp_path / "sidecar.toml", text))
    with pytest.raises(ConfigError) as caught:
        build_all(found)
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/{model}{suffix}: canary.{model}.{key}: {NO_FILE}"
        for model in "ab"
        for suffix, key in (
            (".npy", "steps.0.0.file"), (".json", "steps.1.0.file"), (".npy", "expect.0.cosine"),
        )
    ]  # fmt: skip


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(6, dtype=np.float32).reshape(2, 3))
    return file.getvalue()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(_npy()) - 1), byte=st.integers(0, 255), end=st.integers(0, 200))
def test_a_damaged_npy_file_is_read_or_refused(
    tmp_path: Path, at: int, byte: int, end: int
) -> None:
    whole = _npy()
    path = tmp_path / "x.npy"
    path.write_bytes((whole[:at] + bytes([byte]) + whole[at + 1 :])[:end])
    with contextlib.suppress(ValueError):
        assert read_tensor(path, "FP32", None).array.nbytes <= len(whole)


def test_an_image_is_not_scaled_to_a_size_that_cannot_be_sent(tmp_path: Path) -> None:
    file = picture(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"expected at most 64 MiB, found \[100000, 100000, 3\]"):
        read_tensor(file, "UINT8", [100_000, 100_000, 3])
