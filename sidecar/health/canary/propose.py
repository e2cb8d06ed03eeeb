"""Proposes expectations for a recorded canary from a model's answers to the same request. Pure.

Tables are those of `[canary.MODEL]` in the settings. Values too long for people to read go into
array files next to the TOML file, which the tables name.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidecar.health.canary import bytes_elements
from sidecar.health.canary.datatypes import is_floating
from sidecar.health.canary.expectations import Image, NotDegenerate
from sidecar.health.canary.expectations.exact import fits
from sidecar.health.canary.expectations.formatting import plain, show
from sidecar.triton.api import Answer, ModelDescription, Tensor

Table = dict[str, object]

_INLINE = 64  # elements; longer values go into files
_LONGEST = 4096  # characters of a text that is expected exactly
# The change by another batch size, kernel or GPU, relative to a value and to the largest one.
_PRECISION = {"FP64": 1e-6, "FP32": 1e-4, "FP16": 1e-2, "BF16": 5e-2}
_MARGIN = 3.0  # how many times the observed spread is tolerated
_SCATTERED = 0.1  # a tolerance above this share of the largest value proves nothing
_ALIKE = 0.9  # the least cosine that still means something
_SLOW, _TOO_SLOW = 10.0, 20.0  # times the slowest answer
_LEAST_SLOW, _LEAST_TOO_SLOW = 0.5, 2.0  # seconds; the least budgets


@dataclass
class Proposal:
    """Expectations of the outputs, remarks for the operator, and arrays by file name."""

    expect: list[Table] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    repeatable: bool = True

    def differs(self, remark: str) -> None:
        """Note how the answers differ."""
        self.repeatable = False
        self.remarks.append(remark)


def propose(answers: Sequence[Answer], stem: str) -> Proposal:
    """Expectations that all the answers meet, as strict as their differences allow.

    Args:
        answers: one or more, to the same request.
        stem: the beginning of array file names.
    """
    proposal = Proposal()
    for name in {name: None for answer in answers for name in answer.outputs}:
        found = [answer.outputs[name] for answer in answers if name in answer.outputs]
        if len(found) < len(answers):
            proposal.differs(f"{name}: only in {len(found)} of {len(answers)} answers; left out")
            continue
        table: Table = {"output": name, **_form(found)}
        table |= _content(name, found, proposal, stem)
        if len(table) > 1:
            proposal.expect.append(table)
    return proposal


def differences(described: ModelDescription, answers: Sequence[Answer]) -> list[str]:
    """How the form of the outputs differs from the model's config, one difference per line."""
    found: list[str] = []
    for spec in described.outputs:
        promise = f"its config says {spec.datatype} {[*spec.shape]}"
        forms = [
            (value.datatype, value.array.shape)
            for answer in answers
            if (value := answer.outputs.get(spec.name))
        ]
        if not forms:
            found.append(f"{spec.name}: in no answer, though {promise}")
        for datatype, shape in dict.fromkeys(forms):
            if datatype != spec.datatype or not (described.decoupled or fits(spec.shape, shape)):
                found.append(f"{spec.name}: answered as {datatype} {[*shape]}, though {promise}")
    return found


def latency(answers: Sequence[Answer], streamed: bool) -> Table:
    """A canary's timeout and budgets, as table keys, far above the observed values.

    `timeout` and `latency.fail` are equal, so that no answer within its budget is reported as late.
    They are rather short, because a sidecar first checks after `timeout` whether the model hangs,
    and exceeding `fail` is no failure while other requests are answered.
    """
    slowest = max(answer.seconds for answer in answers)
    first = max(answer.first for answer in answers)
    limit = _budget(_TOO_SLOW * slowest, _LEAST_TOO_SLOW)
    budgets = {"warn": _budget(_SLOW * slowest, _LEAST_SLOW), "fail": limit}
    if streamed:
        budgets["first_warn"] = _budget(_SLOW * first, _LEAST_SLOW)
        budgets["first_fail"] = _budget(_TOO_SLOW * first, _LEAST_TOO_SLOW)
    return {"timeout": limit, "latency": budgets}


def inputs(step: Mapping[str, Tensor], stem: str) -> tuple[list[Table], dict[str, NDArray[Any]]]:
    """The tables of a step's inputs, and the arrays that they name."""
    tables: list[Table] = []
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in step.items():
        table: Table = {"name": name, "datatype": value.datatype, "shape": [*value.array.shape]}
        if value.array.size > _INLINE and value.datatype != "BYTES":
            table["file"] = file_name(stem, name, is_input=True)
            arrays[file_name(stem, name, is_input=True)] = value.array
        else:
            table["data"] = _elements(value)
        tables.append(table)
    return tables, arrays


def file_name(stem: str, tensor: str, is_input: bool = False) -> str:
    """The unique file name for the elements of an output, or of an input."""
    safe = re.sub(r"[^A-Za-z0-9_-]", lambda match: _percent(match[0]), tensor)
    return f"{stem}.input.{safe}.npy" if is_input else f"{stem}.{safe}.npy"


def files_of(canary: Mapping[str, Any], stem: str) -> set[str]:
    """The files that a recorded canary names and that were written with it.

    Args:
        canary: its table, not validated.
        stem: the beginning of array file names.
    """
    named = {
        (key == "file", value)
        for key, value in _pairs(canary)
        if key in ("file", "allclose", "cosine") and isinstance(value, str)
    }
    outputs = re.compile(rf"{re.escape(stem)}\.[A-Za-z0-9_%-]+\.npy")
    inputs = re.compile(rf"{re.escape(stem)}\.input\.[A-Za-z0-9_%-]+\.npy")
    return {name for is_input, name in named if (inputs if is_input else outputs).fullmatch(name)}


def _pairs(tree: object) -> Iterator[tuple[str, object]]:
    """Every key with its value, at any depth."""
    children: Iterable[object] = ()
    if isinstance(tree, Mapping):
        yield from tree.items()
        children = tree.values()
    elif isinstance(tree, list):
        children = tree
    for child in children:
        yield from _pairs(child)


def _percent(character: str) -> str:
    """As in a URL: RFC 3986, section 2.1."""
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogatepass"))


def _form(found: Sequence[Tensor]) -> Table:
    table: Table = {}
    if len({value.datatype for value in found}) == 1:
        table["datatype"] = found[0].datatype
    shapes = [value.array.shape for value in found]
    if len({len(shape) for shape in shapes}) == 1:
        columns = zip(*shapes, strict=True)
        table["shape"] = [each[0] if len(set(each)) == 1 else -1 for each in columns]
    return table


def _content(name: str, found: Sequence[Tensor], proposal: Proposal, stem: str) -> Table:
    if len({value.datatype for value in found}) > 1:
        proposal.differs(f"{name}: of different datatypes")
        return {}
    if found[0].datatype == "BYTES":
        return _text(name, found, proposal)
    if len({value.array.size for value in found}) > 1:
        sizes = [value.array.size for value in found]
        proposal.differs(f"{name}: from {min(sizes)} to {max(sizes)} elements")
        finite = is_floating(found[0].datatype) and _all_finite(found)
        return {"finite": True} if finite else {}
    if is_floating(found[0].datatype):
        return _numbers(name, found, proposal, stem)
    return _whole(name, found, proposal, stem)


def _text(name: str, found: Sequence[Tensor], proposal: Proposal) -> Table:
    elements = [tuple(value.array.flat) for value in found]
    if any(elements) and all(Image(name).fault(value) is None for value in found):
        return {"image": True}
    texts = [tuple(plain(element) for element in answer) for answer in elements]
    lengths = [len(element.decode(errors="replace")) for answer in elements for element in answer]
    distinct = list(dict.fromkeys(texts))
    if len(distinct) == 1 and len(texts[0]) <= _INLINE and sum(lengths) <= _LONGEST:
        return {"equals": _elements(found[0])}
    if len(distinct) > 1:
        samples = ", ".join(show(each[0] if len(each) == 1 else [*each]) for each in distinct[:3])
        proposal.differs(
            f"{name}: {len(distinct)} different answers in {len(texts)}: {samples}; with a fixed"
            " seed or a temperature of 0 the exact text could be expected"
        )
    if not lengths:
        return {}
    table: Table = {"max_length": 4 * max(lengths)}
    if not all(isinstance(text, str) for answer in texts for text in answer):
        proposal.remarks.append(f"{name}: no text, and not the same few bytes each time")
        return table
    if all(NotDegenerate(name).fault(value) is None for value in found):
        return {"not_degenerate": True, **table}
    proposal.remarks.append(f"{name}: empty or degenerate text; try other inputs")
    return table


def _whole(name: str, found: Sequence[Tensor], proposal: Proposal, stem: str) -> Table:
    """The expectation of integers and booleans: exactly these, or none."""
    first = found[0].array
    if any(not np.array_equal(first, value.array) for value in found):
        proposal.differs(f"{name}: different {found[0].datatype} elements; only its form is judged")
        return {}
    if first.size <= _INLINE:
        return {"equals": _elements(found[0])}
    if found[0].datatype == "BOOL":
        return {}
    proposal.arrays[file_name(stem, name)] = first
    return {"allclose": file_name(stem, name), "atol": 0.0, "rtol": 0.0}


def _numbers(name: str, found: Sequence[Tensor], proposal: Proposal, stem: str) -> Table:
    rows = np.stack([value.array.ravel().astype(np.float64) for value in found])
    masked = np.isinf(rows[0])  # masked scores, for example
    numbers = rows[:, ~masked]
    if not np.isfinite(numbers).all() or not (rows[:, masked] == rows[0, masked]).all():
        proposal.remarks.append(f"{name}: NaN or infinity; try other inputs")
        return {}
    if not rows.size:
        return {}
    low, high = numbers.min(axis=0), numbers.max(axis=0)
    middle = rows[0].copy()
    middle[~masked] = low + (high - low) / 2
    scale = float(np.abs(numbers).max(initial=0.0))
    spread = float((high - low).max(initial=0.0))
    rtol = _PRECISION[found[0].datatype]
    atol = _rounded_up(max(_MARGIN * spread, 0.1 * rtol * scale, 1e-9))
    if spread > 0:
        proposal.remarks.append(f"{name}: elements differ by up to {spread:.3g}")
    finite: Table = {} if masked.any() else {"finite": True}
    if masked.any():
        proposal.remarks.append(f"{name}: {masked.sum()} of {masked.size} elements are infinite")
    if spread > 0 and atol > _SCATTERED * scale:
        proposal.repeatable = False
        return finite and finite | _direction(name, rows, middle, proposal, stem)
    elements: Table = {"allclose": _vector(name, middle, proposal, stem)}
    return {**finite, **elements, "atol": atol, "rtol": rtol}


def _direction(
    name: str, rows: NDArray[Any], middle: NDArray[Any], proposal: Proposal, stem: str
) -> Table:
    """The expectation that differing vectors point the way their midpoint does, if they do."""
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(middle)
    if rows.shape[1] < 2 or not norms.all():
        return {}
    least = float((rows @ middle / norms).min())
    at_least = math.floor(100 * (1 - _MARGIN * (1 - least))) / 100
    if at_least < _ALIKE:
        return {}
    return {"cosine": _vector(name, middle, proposal, stem), "at_least": at_least}


def _vector(name: str, values: NDArray[Any], proposal: Proposal, stem: str) -> object:
    if values.size <= _INLINE:
        return [float(f"{value:.9g}") for value in values.tolist()]
    proposal.arrays[file_name(stem, name)] = values
    return file_name(stem, name)


def _elements(value: Tensor) -> list[object]:
    if value.datatype == "BYTES":
        return [bytes_elements.written(element) for element in value.array.flat]
    return [plain(element) for element in value.array.flat]


def _all_finite(found: Sequence[Tensor]) -> bool:
    return all(bool(np.isfinite(value.array).all()) for value in found)


def _rounded_up(number: float) -> float:
    """The number rounded up to one significant digit."""
    power = 10.0 ** math.floor(math.log10(number))
    return float(f"{math.ceil(number / power) * power:.1g}")


def _budget(seconds: float, floor: float) -> float:
    return float(f"{max(seconds, floor):.2g}")
