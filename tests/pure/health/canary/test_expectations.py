import io
import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for
from numpy.typing import NDArray
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
from sidecar.health.canary.expectations.schema import schema_fault
from sidecar.triton.api import Answer, Tensor
from sidecar.triton.tensors import tensor

NAN = float("nan")
INF = float("inf")


def answer(value: Tensor, name: str = "o") -> Answer:
    return Answer({name: value})


def text(*elements: str | bytes) -> Answer:
    return answer(tensor("BYTES", [len(elements)], elements))


def fp32(*elements: float) -> Answer:
    return answer(tensor("FP32", [len(elements)], elements))


def of(datatype: str, *elements: object) -> Answer:
    return answer(tensor(datatype, [len(elements)], elements))


def shaped(datatype: str, *shape: int) -> Answer:
    return answer(tensor(datatype, shape, [1] * int(np.prod(shape))))


def image(picture: Pillow.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, form)
    return file.getvalue()


def blank(width: int = 8, height: int = 8) -> Pillow.Image:
    return Pillow.new("RGB", (width, height), (7, 7, 7))


def striped(width: int = 8, height: int = 8) -> Pillow.Image:
    picture = blank(width, height)
    picture.paste((250, 0, 0), (0, 0, width // 2, height))
    return picture


def pixels(picture: Pillow.Image) -> NDArray[np.uint8]:
    return np.asarray(picture)


def tensor_of(array: NDArray[np.generic], datatype: str) -> Answer:
    return answer(Tensor(datatype, array))


CLOSE = AllClose("o", (1.0, 2.0), atol=1e-3, rtol=0.0)
PERSON = JsonSchema(
    "o",
    {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"$ref": "#/$defs/n"}},
        "$defs": {"n": {"type": "string"}},
    },
)
SLOW = "^(.*?,){25}P"
TOO_LONG = (
    f"o: json_schema: expected JSON that can be validated in time, but '{SLOW}' took too long to"
    " search"
)
DOUBLING = {str(n + 1): {"allOf": [{"$ref": f"#/$defs/{n}"}] * 2} for n in range(29)} | {"0": {}}
NOISE = np.random.default_rng(1).integers(0, 255, (1, 3, 4, 4), dtype=np.uint8)


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
def test_a_fault_says_what_was_expected_and_what_came(
    expectation: Expectation, given: Answer, fault: str | None
) -> None:
    found = broken_by([expectation], given)
    assert found
    assert fault in (None, found[1])


def test_the_first_fault_is_told() -> None:
    wrong = Contains("o", ("a",))
    assert broken_by([Length("o", 1), wrong, Length("o", 9)], text("b")) == (
        wrong,
        "o: contains: expected 'a' in it, got 'b'",
    )


def test_no_expectation_is_no_fault() -> None:
    assert broken_by([], text("b")) is None


@pytest.mark.parametrize("size", [(5000, 5000), (100_000, 1)])
def test_an_image_is_not_decoded_before_its_size_is_known(size: tuple[int, int]) -> None:
    found = broken_by([Image("o", 2, 2)], text(image(Pillow.new("1", size))))
    assert found
    assert f"got {size[0]} x {size[1]}" in found[1]


@pytest.mark.parametrize(
    "right",
    [
        "no", "Yes.", "42", "...", "3.00000000", "1000000000", "no no no", "ha ha ha", "哈哈哈",
        "One slow reply may", "- a\n- b\n- c\n- d", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10",
        "Title\n==================\n\nA paragraph that follows its heading.",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        ("The committee met on Tuesday. It heard three reports, asked about the second, and put off"
        " the third until somebody could say where the money for the roof was to come from."),
        ("the cat and the dog and the bird and the fish and the horse and the cow and the hen and"
        " the sheep and the goat and the mouse and the rat and the fox"),
    ],
)  # fmt: skip
def test_text_that_is_short_and_right_is_not_degenerate(right: str) -> None:
    assert broken_by([NotDegenerate("o")], text(right)) is None


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("", "nothing visible"),
        ("\u200b\n\x00", "nothing visible"),
        ("!!!!!!!!", "one unit of 1 characters repeated 8 times"),
        ("哈" * 9, "one unit of 1 characters repeated 9 times"),
        ("\ufffd" * 8, "one unit of 1 characters repeated 8 times"),
        ("the the the the the", "one unit of 4 characters repeated 4 times"),
        ("I am fine. " * 5, "one unit of 11 characters repeated 4 times"),
        ("Well, the answer to this is" + " so" * 12, "one unit of 3 characters repeated 12 times"),
        ("A good beginning. " + "and then " * 2000, "one unit of 9 characters repeated 454 times"),
        (" ".join(f"so it goes on and on and on, {n}" for n in range(12)),
         "of all sequences of 4 words repeated"),
    ],
)  # fmt: skip
def test_what_is_stuck_in_a_loop_is_degenerate(wrong: str, why: str) -> None:
    found = broken_by([NotDegenerate("o")], text(wrong))
    assert found
    assert why in found[1]


@given(st.text(min_size=1, max_size=30), st.integers(8, 40))
def test_whatever_is_visible_and_repeated_is_degenerate(unit: str, times: int) -> None:
    assert broken_by([NotDegenerate("o")], text((unit * times).encode(errors="replace")))


@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1), unique=True, min_size=1))
def test_words_that_all_differ_are_not_degenerate_for_their_number(words: list[str]) -> None:
    found = broken_by([NotDegenerate("o")], text(" ".join(words)))
    assert found is None or "sequences" not in found[1]


def test_text_that_is_no_utf8_is_a_fault_and_no_crash() -> None:
    found = broken_by([Equals("o", ("hello",))], text(b"\xff\xfe"))
    assert found
    assert found[1] == r"o: equals: expected 'hello', got b'\xff\xfe'"


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": r"^\p{Lu}"},
        {
            "patternProperties": {"^a": {"type": "integer"}},
            "additionalProperties": {"minLength": 2},
        },
        {"properties": {"b": {}}, "additionalProperties": False},
        {"uniqueItems": True, "items": {"uniqueItems": True}},
        {"$schema": "http://json-schema.org/draft-04/schema#", "type": ["object", "array"]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}},
    ],
    ids=json.dumps,
)
@given(
    document=st.recursive(
        st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([1.0, "a", "Ab", "b"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["a", "ab", "b"]), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_documents_are_judged_as_jsonschema_judges_them(
    schema: dict[str, object], document: object
) -> None:
    cls = validator_for(schema, default=Draft202012Validator)
    plain = json.loads(json.dumps(schema).replace(r"\\p{Lu}", "[A-Z]"))
    assert schema_fault(schema) == ""
    found = broken_by([JsonSchema("o", schema)], text(json.dumps(document)))
    assert (found is None) == cls(plain).is_valid(document)  # type: ignore[arg-type]


_KEYWORDS = st.sampled_from([
    *("$schema", "$id", "$ref", "$defs", "$anchor", "$dynamicRef", "type", "enum", "const", "not"),
    *("items", "properties", "pattern", "patternProperties", "additionalProperties", "required"),
    *("allOf", "if", "then", "multipleOf", "uniqueItems", "contains", "minItems", "dependencies"),
    *("unevaluatedProperties", "unevaluatedItems", "propertyNames", "format", "default"),
])  # fmt: skip
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["#", "string", "object", "(", "http://json-schema.org/draft-03/schema#"])
)
_SCHEMAS = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYWORDS, inner, max_size=4),
    max_leaves=10,
)


@given(schema=_SCHEMAS | st.dictionaries(_KEYWORDS, _SCHEMAS, max_size=4), document=_SCHEMAS)
def test_whatever_the_schema_it_is_refused_in_one_line_or_judges(
    schema: object, document: object
) -> None:
    fault = schema_fault(schema)
    assert len(fault.splitlines()) <= 1
    if not fault and isinstance(schema, dict):
        broken_by([JsonSchema("o", schema)], text(json.dumps(document)))


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
def test_a_fault_is_cut(expectation: Expectation, given: Answer) -> None:
    found = broken_by([expectation], given)
    assert found
    assert len(found[1]) <= 400


_ELEMENTS: dict[str, Callable[[], st.SearchStrategy[NDArray[np.generic]]]] = {
    "BOOL": lambda: arrays.arrays(np.bool_, _shapes()),
    "INT64": lambda: arrays.arrays(np.int64, _shapes()),
    "UINT8": lambda: arrays.arrays(np.uint8, _shapes()),
    "FP16": lambda: arrays.arrays(np.float16, _shapes()),
    "FP32": lambda: arrays.arrays(np.float32, _shapes()),
    "FP64": lambda: arrays.arrays(np.float64, _shapes()),
    "BYTES": lambda: arrays.arrays(np.object_, _shapes(), elements=_garbage()),
}


def _shapes() -> st.SearchStrategy[tuple[int, ...]]:
    images = st.sampled_from([(2, 2, 3), (3, 2, 2), (1, 3, 4, 4), (0, 2, 3)])
    return arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4) | images


def _garbage() -> st.SearchStrategy[bytes]:
    encoded = image(striped(3, 3))
    damaged = st.builds(
        lambda at, byte: encoded[:at] + bytes([byte]) + encoded[at + 1 :],
        st.integers(0, len(encoded)),
        st.integers(0, 255),
    )
    values = st.recursive(st.none() | st.floats() | st.text(), st.lists)
    return (
        st.binary() | damaged | st.text().map(str.encode) | values.map(json.dumps).map(str.encode)
    )


ANSWERS = st.sampled_from(sorted(_ELEMENTS)).flatmap(
    lambda datatype: st.builds(Tensor, st.just(datatype), _ELEMENTS[datatype]())
)
EVERY = [
    Datatype("o", "FP32"),
    Shape("o", (-1, 2)),
    Length("o", 1, 3),
    Equals("o", ("a",)),
    Equals("o", (1.5, 2)),
    Contains("o", ("a",)),
    Regex("o", "a+$"),
    PERSON,
    NotDegenerate("o"),
    Finite("o"),
    CLOSE,
    AllClose("o", (INF, -INF), 0.0, 1e308),
    Cosine("o", (1.0, 2.0)),
    Cosine("o", (0.0, NAN)),
    Label("o", 1),
    Label("o", "a"),
    Image("o", 2, 2),
]


@pytest.mark.parametrize("expectation", EVERY)
@given(given_tensor=ANSWERS)
def test_whatever_is_answered_is_judged(expectation: Expectation, given_tensor: Tensor) -> None:
    found = broken_by([expectation], answer(given_tensor))
    assert found is None or len(found[1].splitlines()) == 1


NUMBERS = arrays.arrays(np.float64, arrays.array_shapes(max_dims=2, max_side=4))


@given(st.data(), st.sampled_from([0.0, 1e-9, 1e-3, 1.0]), st.sampled_from([0.0, 1e-4, 0.5]))
def test_allclose_agrees_with_numpy(data: st.DataObject, atol: float, rtol: float) -> None:
    expected = data.draw(NUMBERS)
    noise = data.draw(arrays.arrays(np.float64, expected.shape, elements=st.floats(-1e-3, 1e-3)))
    with np.errstate(all="ignore"):
        got = expected * (1 + noise) if data.draw(st.booleans()) else expected + noise
        agrees = bool(np.allclose(got, expected, rtol=rtol, atol=atol))
    expectation = AllClose("o", expected, atol, rtol)
    assert (broken_by([expectation], answer(Tensor("FP64", got))) is None) == agrees


@given(arrays.arrays(np.float64, 3, elements=st.floats(0.1, 100)), st.floats(1e-100, 1e100))
def test_a_vector_of_another_length_has_the_same_direction(
    vector: NDArray[np.float64], length: float
) -> None:
    scaled = answer(Tensor("FP64", vector * length))
    assert broken_by([Cosine("o", vector, 1.0)], scaled) is None
    assert broken_by([Cosine("o", -vector, -0.999)], scaled)
