"""What an answer is expected to be: faults and their wording, in tables."""

import json

import numpy as np
import pytest
from PIL import Image as Pillow

from sidecar.health.canary.expectations import (
    AllClose,
    Contains,
    Cosine,
    Datatype,
    Equals,
    Expectation,
    Finite,
    Image,
    JsonSchema,
    Label,
    Length,
    NotDegenerate,
    Regex,
    Shape,
    broken_by,
)
from sidecar.triton.api import Answer
from sidecar.triton.tensors import tensor
from tests.support.answers import (
    CLOSE,
    DOUBLING,
    INF,
    NAN,
    NOISE,
    PERSON,
    SLOW,
    TOO_LONG,
    answer,
    blank,
    fp32,
    image,
    of,
    pixels,
    shaped,
    striped,
    tensor_of,
    text,
)


@pytest.mark.parametrize(
    ("expectation", "given"),
    [
        (Equals("o", ("One slow reply",)), text("One slow reply")),
        (Equals("o", (1, 2, 3, 4)), answer(tensor("INT64", [2, 2], [1, 2, 3, 4]))),
        (Equals("o", (True, False)), of("BOOL", True, False)),
        (Equals("o", (2**64 - 1,)), of("UINT64", 2**64 - 1)),
        (Equals("o", (0.1,)), fp32(0.1)),
        (Equals("o", (0.1,)), of("FP16", 0.1)),
        (Equals("o", (0.1,)), of("BF16", 0.10009765625)),
        (Equals("o", (1,)), fp32(1.0)),
        (Equals("o", ()), fp32()),
        (Datatype("o", "FP16"), of("FP16", 1)),
        (Shape("o", (-1, 3)), shaped("FP32", 2, 3)),
        (Shape("o", ()), shaped("FP32")),
        (Length("o", 2, 2), text("äö")),
        (Length("o", 1), text("a", "bc")),
        (Length("o", 0, 4), shaped("FP32", 2, 2)),
        (Contains("o", ("a", "c")), text("abc", "cba")),
        (Regex("o", r"^\d+$"), text("42")),
        (PERSON, text('{"name": "Ada"}')),
        (NotDegenerate("o"), text("42")),
        (Finite("o"), fp32(1.0, -3e38)),
        (Finite("o"), of("INT8", 1)),
        (CLOSE, fp32(1.0005, 1.9995)),
        (AllClose("o", (INF,), 0, 0), fp32(INF)),
        (AllClose("o", np.array([[1.0], [2.0]]), 0, 0), of("INT8", 1, 2)),
        (Cosine("o", (3.0, 4.0), 1.0), fp32(0.3, 0.4)),
        (Cosine("o", (1e300, 0.0), 0.99), of("FP64", 1e-300, 0.0)),
        (Label("o", 2), fp32(0.1, 0.2, 0.7)),
        (Label("o", 0), answer(tensor("INT32", [2, 2], [5, 1, 9, 3]))),
        (Label("o", "cat: tabby"), text("0.9:2:cat: tabby", "0.1:0:dog")),
        (Label("o", 2), text("0.9:2")),
        (Image("o", 8, 8), text(image(striped()))),
        (Image("o"), text(image(striped(), "JPEG"), image(striped(), "WEBP"))),
        (Image("o", 8, 4), tensor_of(pixels(striped(8, 4)), "UINT8")),
        (Image("o", 8, 4), tensor_of(np.moveaxis(pixels(striped(8, 4)), -1, 0), "UINT8")),
        (Image("o"), tensor_of(NOISE, "UINT8")),
        (Image("o"), tensor_of((NOISE / 255).astype(np.float16), "FP16")),
    ],
)
def test_a_right_answer_has_no_fault(expectation: Expectation, given: Answer) -> None:
    assert broken_by([expectation], given) is None


@pytest.mark.parametrize(
    ("expectation", "given", "fault"),
    [
        (Equals("o", ("Two",)), text("One"), "o: equals: expected 'Two', got 'One'"),
        (Equals("other", ("",)), text("One"),
         "other: expected an output of this name, got ['o']"),
        (Equals("o", ("a", "b")), text("a"), "o: equals: expected 2 elements, got 1"),
        (Equals("o", ("a", "b")), text("a", "c"), "o: equals: [1]: expected 'b', got 'c'"),
        (Equals("o", (1,)), of("BOOL", True), "o: equals: expected 1, got True"),
        (Equals("o", (True,)), of("INT8", 1), "o: equals: expected True, got 1"),
        (Equals("o", ("1",)), of("INT8", 1), "o: equals: expected '1', got 1"),
        (Equals("o", (1,)), text("1"), "o: equals: expected 1, got '1'"),
        (Equals("o", (1e9,)), of("FP16", 1), "o: equals: expected 1000000000.0, got 1.0"),
        (Equals("o", (10**400,)), fp32(1), None),
        (Equals("o", (1.5,)), of("INT8", 1), "o: equals: expected 1.5, got 1"),
        (Datatype("o", "FP16"), fp32(1), "o: datatype: expected FP16, got 'FP32'"),
        (Shape("o", (-1, 3)), shaped("FP32", 3, 2), "o: shape: expected [-1, 3], got [3, 2]"),
        (Shape("o", (1,)), shaped("FP32", 1, 1), "o: shape: expected [1], got [1, 1]"),
        (Length("o", 3), text("abc", "ab"),
         "o: length: [1]: expected at least 3 characters, got 2"),
        (Length("o", 0, 3), fp32(1, 2, 3, 4), "o: length: expected at most 3 elements, got 4"),
        (Length("o", 0), text(), "o: length: expected text, got no elements"),
        (Contains("o", ("a", "b")), text("cab", "a"),
         "o: contains: [1]: expected 'b' in it, got 'a'"),
        (Contains("o", ("a",)), fp32(1), "o: contains: expected text, got FP32"),
        (Regex("o", "^a$"), text("ba"),
         "o: regex: expected a match of '^a$', got 'ba'"),
        (Regex("o", "a"), text("a" * 4097),
         "o: regex: expected at most 4096 characters to search, got 4097"),
        (Regex("o", SLOW), text("1," * 40),
         f"o: regex: '{SLOW}' took too long to search, got '{'1,' * 39}…"),
        (JsonSchema("o", {"pattern": SLOW}), text(json.dumps("1," * 40)), TOO_LONG),
        (JsonSchema("o", {"patternProperties": {SLOW: {}}}), text(json.dumps({"1," * 40: 1})),
         TOO_LONG),
        (JsonSchema("o", {"patternProperties": {SLOW: {}}, "additionalProperties": False}),
         text(json.dumps({"1," * 40: 1})), TOO_LONG),
        (JsonSchema("o", {"$ref": "#/$defs/29", "$defs": DOUBLING}), text("1"),
         ("o: json_schema: expected JSON that can be validated in time, but its schema takes too"
          " long to judge")),
        (JsonSchema("o", {"uniqueItems": True}),
         text(json.dumps([*({"a": number} for number in range(6000)), {"a": 1.0}])), None),
        (PERSON, text('{"name": 1}'), ("o: json_schema: expected JSON that is valid by its schema,"
         " got $.name: 1 is not of type 'string'")),
        (PERSON, text("{"), None),
        (PERSON, text("[" * 60_000), None),
        (PERSON, text('{"name": NaN}'), None),
        (PERSON, text(b"\xff"), None),
        (PERSON, text('"' + "x" * 65_536 + '"'), None),
        (JsonSchema("o", {"$ref": "https://example.org/schema"}), text("1"), None),
        (JsonSchema("o", {"$ref": "#"}), text("1"), None),
        (NotDegenerate("o"), text(), "o: not_degenerate: expected text, got no elements"),
        (NotDegenerate("o"), text(" \n"), None),
        (Finite("o"), fp32(1, NAN, INF), ("o: finite: expected finite numbers, got 2 of 3 that are"
         " not; the first is [1]: nan")),
        (Finite("o"), text("1"), "o: finite: expected numbers, got BYTES"),
        (CLOSE, fp32(1.0, 2.5), ("o: allclose: 1 of 2 elements out of tolerance; the first is [1]:"
         " expected 2, got 2.5")),
        (CLOSE, fp32(NAN, 2.0), ("o: allclose: 1 of 2 elements out of tolerance; the first is [0]:"
         " expected 1, got nan")),
        (CLOSE, fp32(1.0), "o: allclose: expected 2 elements, got 1"),
        (CLOSE, text("1", "2"), "o: allclose: expected numbers, got BYTES"),
        (Cosine("o", (1.0, 0.0)), fp32(1.0, 1.0),
         "o: cosine: expected a similarity of at least 0.99, got 0.707107"),
        (Cosine("o", (1.0, 0.0)), fp32(0.0, 0.0),
         "o: cosine: expected a vector with a direction, got only zeros"),
        (Cosine("o", (1.0,)), fp32(NAN),
         "o: cosine: expected finite numbers, got NaN or infinity"),
        (Cosine("o", (0.0,)), fp32(1.0), None),
        (Label("o", 2), fp32(0.1, 0.8, 0.7), "o: label: expected 2, got 1"),
        (Label("o", 0), answer(tensor("FP32", [2, 2], [5, 1, 3, 9])),
         "o: label: expected 0, got 1"),
        (Label("o", 0), fp32(NAN, 1), "o: label: expected finite scores, got NaN or infinity"),
        (Label("o", 0), fp32(), "o: label: expected scores, got FP32 [0]"),
        (Label("o", "cat"), text("0.9:2:dog", "0.1:0:cat"), "o: label: expected 'cat', got 'dog'"),
        (Label("o", "cat"), text("cat"),
         "o: label: expected text as value:index:label, got 'cat'"),
        (Label("o", "cat"), fp32(1), "o: label: expected text as value:index:label, got FP32"),
        (Image("o"), text(image(blank())),
         "o: image: expected an image that is not blank, got a standard deviation of 0 of 255"),
        (Image("o", 16, 16), text(image(striped(16, 8))),
         "o: image: expected at least 16 x 16, got 16 x 8"),
        (Image("o"), text(image(striped())[:60]), None),
        (Image("o"), text(b""), None),
        (Image("o"), text(image(striped()), "nothing"), None),
        (Image("o"), text(), "o: image: expected an image, got no elements"),
        (Image("o"), fp32(1),
         ("o: image: expected an encoded image or a shape [height, width, 3] or"
         " [3, height, width], got FP32 [1]")),
        (Image("o"), tensor_of(np.zeros((4, 4, 3)), "FP64"), None),
        (Image("o"), tensor_of(np.full((4, 4, 3), NAN), "FP64"),
         "o: image: expected finite numbers, got NaN or infinity"),
    ],
)  # fmt: skip
def test_a_fault_says_what_was_expected_and_what_was_received(
    expectation: Expectation, given: Answer, fault: str | None
) -> None:
    found = broken_by([expectation], given)
    assert found
    assert fault in (None, found[1])


def test_the_first_fault_is_reported() -> None:
    wrong = Contains("o", ("a",))
    assert broken_by([Length("o", 1), wrong, Length("o", 9)], text("b")) == (
        wrong,
        "o: contains: expected 'a' in it, got 'b'",
    )


def test_without_an_expectation_there_is_no_fault() -> None:
    assert broken_by([], text("b")) is None


@pytest.mark.parametrize("size", [(5000, 5000), (100_000, 1)])
def test_an_image_is_decoded_only_after_its_size_is_checked(size: tuple[int, int]) -> None:
    found = broken_by([Image("o", 2, 2)], text(image(Pillow.new("1", size))))
    assert found
    assert f"got {size[0]} x {size[1]}" in found[1]


LONG = "x" * 100_000


@pytest.mark.parametrize(
    ("expectation", "given"),
    [
        (Equals("o", ("hello",)), text(LONG)),
        (Equals("o", (LONG,)), text("hello")),
        (Contains("o", (LONG,)), text("y" * 100_000)),
        (Regex("o", LONG), text("hello")),
        (PERSON, text(json.dumps({"name": list(range(9000))}))),
        (NotDegenerate("o"), text(LONG)),
        (Equals("missing", ()), Answer({LONG: tensor("BYTES", [0], [])})),
        (Equals(LONG, ()), Answer({})),
        (Shape("o", (1,) * 64), shaped("INT8", *[1] * 63)),
    ],
)
def test_a_long_fault_is_cut(expectation: Expectation, given: Answer) -> None:
    found = broken_by([expectation], given)
    assert found
    assert len(found[1]) <= 400
