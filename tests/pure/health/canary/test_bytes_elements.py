"""BYTES are bytes: written, read, sent, compared and shown as they are, text or not."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.cli.canary.input_parsing import from_file, from_flags, tensors
from sidecar.health.canary import bytes_elements, propose
from sidecar.health.canary.expectations import Contains, Equals, JsonSchema, Label, broken_by
from sidecar.local.planning import toml
from sidecar.settings.canaries import build
from sidecar.settings.tables.canary import CanarySettings
from sidecar.triton.api import Answer, ModelDescription, TensorSpec
from sidecar.triton.tensors import tensor

pytestmark = pytest.mark.files

ODD, OTHER = b"\x80\x01\xfe", b"\x99\x01\xff"  # both become the same where UTF-8 is replaced
ELEMENTS = st.lists(st.binary(max_size=80) | st.text(max_size=8).map(str.encode), max_size=4)
MODEL = ModelDescription("m", inputs=(TensorSpec("x", "BYTES", (-1,)),))


def answer(*elements: bytes) -> Answer:
    return Answer({"y": tensor("BYTES", [len(elements)], elements)})


def settings(asked: dict[str, object], expect: dict[str, object]) -> CanarySettings:
    """A canary as read from a TOML file."""
    one = {"name": "x", "datatype": "BYTES", **asked}
    table = {"canary": {"m": {"inputs": [one], "expect": [{"output": "y", **expect}]}}}
    return CanarySettings.model_validate(tomllib.loads(toml.dumps(table))["canary"]["m"])


@given(ELEMENTS, ELEMENTS)
@example([b"BMW"], [b"BM"])
def test_a_recording_expects_exactly_the_recorded_answers(
    elements: list[bytes], others: list[bytes]
) -> None:
    (asked,), _ = propose.inputs({"x": tensor("BYTES", [len(elements)], elements)}, "canary")
    (expect,) = propose.propose([answer(*elements)] * 2, "canary").expect
    found = settings(asked, expect)
    canary = build("m", found)
    assert [*canary.steps[0]["x"].array.flat] == elements
    assert broken_by(canary.expectations, answer(*elements)) is None
    assert "equals" in expect
    if others != elements:
        assert broken_by(canary.expectations, answer(*others)) is not None
    assert CanarySettings.model_validate_json(found.model_dump_json(exclude_unset=True)) == found


def _plain(asked: dict[str, Any], expect: dict[str, Any]) -> dict[str, object]:
    return {"inputs": [{"name": "x", "datatype": "BYTES", **asked}], "expect": [expect]}


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_different_elements_are_written_differently(one: bytes, other: bytes) -> None:
    assert (bytes_elements.written(one) == bytes_elements.written(other)) == (one == other)
    read = bytes_elements.read(bytes_elements.written(one))
    assert isinstance(read, str | bytes)
    assert bytes_elements.encoded(read) == one


def test_different_blobs_are_not_repeatable() -> None:
    proposal = propose.propose([answer(ODD), answer(OTHER)], "canary")
    assert not proposal.repeatable
    assert ": b'\\x80\\x01\\xfe', b'\\x99" in proposal.remarks[0]
    assert [each.keys() for each in proposal.expect] == [
        {"output", "datatype", "shape", "max_length"}
    ]


def test_short_elements_are_written_legibly() -> None:
    assert bytes_elements.written("ä\x00".encode()) == "ä\x00"
    assert bytes_elements.written(ODD) == {"hex": "80 01 fe"}
    assert bytes_elements.written(ODD * 20).keys() == {"base64"}  # type: ignore[union-attr]
    document = toml.dumps({"x": [{"name": "x", "data": [{"hex": "80 01 fe"}, "a"]}]})
    assert '{ name = "x", data = [{ hex = "80 01 fe" }, "a"] },' in document


@pytest.mark.parametrize(
    ("expectation", "right", "wrong", "why"),
    [
        (Equals("y", (ODD,)), [ODD], [OTHER],
         r"equals: expected b'\x80\x01\xfe', got b'\x99\x01\xff'"),
        (Equals("y", ("a", ODD)), [b"a", ODD], [b"a", b"a"], r"equals: [1]: expected b'\x80"),
        (Equals("y", ("\ufffd\x01\ufffd",)), ["\ufffd\x01\ufffd".encode()], [ODD],
         r"got b'\x80\x01\xfe'"),
        (Equals("y", (ODD * 99,)), [ODD * 99], [ODD * 98 + OTHER], "differs from byte 294 on"),
        (Equals("y", (b"a",)), [b"a"], [b"b"], "expected b'a', got 'b'"),
        (Contains("y", (b"\x01\xfe", "a")), [b"a" + ODD], [b"a" + OTHER],
         r"contains: expected b'\x01\xfe' in it"),
        (Contains("y", ("\ufffd",)), ["\ufffd".encode()], [ODD], "contains: expected"),
        (JsonSchema("y", {}), [b'"a"'], [b'"\x80"'], "which is no UTF-8"),
        (Label("y", "\ufffd"), ["0.9:1:\ufffd".encode()], [b"0.9:1:\x80"], "label: expected"),
    ],
)  # fmt: skip
def test_expectations_compare_bytes(
    expectation: Any, right: list[bytes], wrong: list[bytes], why: str
) -> None:
    assert broken_by([expectation], answer(*right)) is None
    found = broken_by([expectation], answer(*wrong))
    assert found
    assert why in found[1]


BLOB = {"shape": [1], "data": [{"base64": "gAH+"}]}


def test_each_form_is_read_wherever_elements_are(tmp_path: Path) -> None:
    canary = build("m", settings(BLOB, {"contains": [{"hex": "01FE"}, "a"]}))
    assert canary.steps[0]["x"].array.tolist() == [ODD]
    assert canary.expectations == (Contains("y", (b"\x01\xfe", "a")),)
    assert build("m", settings(BLOB, {"contains": {"hex": "01"}})).expectations == (
        Contains("y", (b"\x01",)),
    )
    path = tmp_path / "x.json"
    path.write_text('[["a"], [{"hex": "80 01 fe"}]]')
    canary = build("m", settings({"file": str(path)}, {"contains": "a"}))
    assert canary.steps[0]["x"].array.tolist() == [[b"a"], [ODD]]
    inputs = tmp_path / "inputs.json"
    inputs.write_text(json.dumps([{"name": "x", "datatype": "BYTES", **BLOB}]))
    for step in (from_file(inputs)[0], from_flags(['x=[{"base64": "gAH+"}]'], MODEL)):
        (sent,) = tensors([step], MODEL)
        assert sent["x"].array.tolist() == [ODD]
    np.save(tmp_path / "x.npy", np.array([ODD]))
    canary = build("m", settings({"file": str(tmp_path / "x.npy")}, {"contains": "a"}))
    assert canary.steps[0]["x"].array.tolist() == [ODD]


@pytest.mark.parametrize(
    "text", ['{"hex": "80"}', '[{"role": "user"}]', '{"a": [1]}', '[{"hex": "80", "more": 1}]']
)
def test_a_json_prompt_stays_text(text: str) -> None:
    (sent,) = tensors([from_flags([f"x={text}"], MODEL)], MODEL)
    assert sent["x"].array.tolist() == [text.encode()]


@pytest.mark.parametrize(
    "value",
    [{"hex": "8"}, {"hex": 80}, {"base64": "gAH"}, {"base64": "gAH-"}, {"hex": "80", "x": 1}, {},
     {"text": "a"}, {"hex": "ä"}, {"base64": "ä"}],
)  # fmt: skip
def test_a_table_that_is_not_bytes_is_reported(value: dict[str, object]) -> None:
    for asked, expect in (
        ({"shape": [1], "data": [value]}, {"contains": "a"}),
        (BLOB, {"equals": [value]}),
        (BLOB, {"contains": [value]}),
    ):
        with pytest.raises(ValueError, match=r"expected bytes as \{ hex = "):
            CanarySettings.model_validate(_plain(asked, {"output": "y", **expect}))


def test_text_with_a_lone_surrogate_is_refused() -> None:
    asked = {"shape": [1], "data": ["\ud800"]}
    with pytest.raises(ValueError, match="expected elements of datatype BYTES"):
        CanarySettings.model_validate(_plain(asked, {"output": "y", "contains": "a"}))
