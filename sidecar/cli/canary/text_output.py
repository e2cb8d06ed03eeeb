"""Prints the answers of `triton-sidecar canary`, as text or with --json."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from sidecar.cli.canary.files import Described
from sidecar.cli.canary.record import Question, Written
from sidecar.health.canary.definition import Canary
from sidecar.health.canary.examine import Examined
from sidecar.health.canary.expectations import Expectation
from sidecar.health.canary.expectations.formatting import cut, plain, show
from sidecar.health.canary.propose import Proposal
from sidecar.runtime.terminal import Column, Grid
from sidecar.runtime.terminal import show as show_grid
from sidecar.triton.api import Answer, Tensor

_STYLES = {"OK": "green", "WARNING": "yellow", "CRITICAL": "red"}
_PROPOSAL = (
    Column("output", shortens=True),
    Column("datatype", worth=2),
    Column("shape", worth=1),
    Column("answer", worth=3, folds=True),
    Column("will be expected", worth=4, folds=True),
)
_RESULTS = (
    Column("model", shortens=True),
    Column("result"),
    Column("reason", worth=3),
    Column("detail", worth=4, folds=True),
    Column("first", worth=1),
    Column("total", worth=2),
)
_LISTING = (
    Column("model", shortens=True),
    Column("asked", worth=3, folds=True),
    Column("expected", worth=4, folds=True),
    Column("times", worth=1),
    Column("described in", worth=2, folds=True),
)
_SHOWN = 60  # characters of a value in a list
_ELEMENTS = 17  # of a tensor that are rendered: one more than fits


def proposal(question: Question, answers: Sequence[Answer], proposed: Proposal, wide: bool) -> None:
    """The answer to the question, and what a canary will expect of it."""
    if question.derived:
        print("The inputs are derived from the model's metadata; --input gives better ones.")
    grid = Grid(_PROPOSAL)
    for name, value in answers[0].outputs.items():
        expected = [each for each in proposed.expect if each["output"] == name]
        keys = ", ".join(key for each in expected for key in each if key != "output")
        shape = str([*value.array.shape])
        grid.add(name, value.datatype, shape, _value(value), keys or "nothing")
    show_grid(grid, wide)
    alike = "the same each time" if proposed.repeatable else "not the same each time"
    slowest = max(answer.seconds for answer in answers)
    print(f"Asked {len(answers)} times: {alike}; the slowest took {slowest:.3g} s.")
    for remark in proposed.remarks:
        print(f"  {remark}")


def written(files: Written, folder: Path) -> None:
    """The other files that were written or removed with a canary's file."""
    for path, array in files.arrays.items():
        print(f"{folder / path.name}: written next to it, {array.size} elements")
    for path in files.removed:
        print(f"{folder / path.name}: removed; only the file that was replaced named it")


def results(found: Sequence[Examined], wide: bool) -> None:
    """The results of canaries, as a table."""
    grid = Grid(_RESULTS)
    for each in found:
        finding, answer = each.finding, each.answer
        style = _STYLES.get(finding.level.name, "")
        times = [f"{answer.first:.3f} s", f"{answer.seconds:.3f} s"] if answer else ["", ""]
        name = f"{finding.subject}{' (derived)' if each.derived else ''}"
        result = Text("passes" if finding.ok else "fails", style)
        grid.add(name, result, finding.reason.value, finding.detail, *times)
    show_grid(grid, wide)


def document(found: Sequence[Examined]) -> None:
    """The results of canaries, as JSON."""
    wrong = [each.finding for each in found if not each.finding.ok]
    text = "; ".join(f"{each.subject}: {each.reason}: {each.detail}" for each in wrong)
    why = {"why": text} if wrong else {}
    canaries = [_fields(each) for each in found]
    print(json.dumps({"done": not wrong, **why, "canaries": canaries}, indent=2))


def listing(described: Described, wide: bool) -> None:
    """What is asked and expected, and where that is described."""
    grid = Grid(_LISTING)
    for canary in described.canaries:
        asked = (*_asked(canary), *_besides(canary))
        texts = (asked, _expected(canary), _times(canary))
        grid.add(canary.model, *map("\n".join, texts), described.origins[canary.model])
    for model in described.bare:
        grid.add(model, "derived inputs", "form, finite", "", "the model's metadata")
    show_grid(grid, wide)


def _fields(each: Examined) -> dict[str, object]:
    return {
        "model": each.finding.subject,
        "ok": each.finding.ok,
        "reason": each.finding.reason.value,
        "level": each.finding.level.name,
        "detail": each.finding.detail,
        "derived": each.derived,
        "first_seconds": each.answer.first if each.answer else None,
        "seconds": each.answer.seconds if each.answer else None,
    }


def _asked(canary: Canary) -> Iterator[str]:
    for number, step in enumerate(canary.steps):
        where = f"{number}: " if len(canary.steps) > 1 else ""
        if not step:
            yield f"{where}no inputs"
        for name, value in step.items():
            form = f"{name} {value.datatype} {[*value.array.shape]}"
            yield f"{where}{form} {cut(_value(value), _SHOWN)}"


def _besides(canary: Canary) -> Iterator[str]:
    if canary.id:
        yield f"id {cut(show(canary.id), _SHOWN)}"
    for name, value in canary.parameters.items():
        yield f"parameter {cut(name, _SHOWN)} {show(value)}"


def _expected(canary: Canary) -> Iterator[str]:
    for each in canary.expectations:
        yield cut(f"{each.output}: {each.key} {_conditions(each)}".rstrip(), 2 * _SHOWN)


def _conditions(expectation: Expectation) -> str:
    """The fields of an expectation; numbers have their names, if there are several fields."""
    values = {
        field.name: getattr(expectation, field.name)
        for field in dataclasses.fields(expectation)
        if field.name != "output"
    }
    alone = len(values) == 1
    return ", ".join(
        f"{name} {value}" if isinstance(value, int | float) and not alone else _condition(value)
        for name, value in values.items()
        if value is not None
    )


def _condition(value: object) -> str:
    match value:
        case Mapping():
            text = json.dumps(value)
        case np.ndarray():
            text = _some(value)
        case _:
            text = show(value)
    return cut(text, _SHOWN)


def _value(value: Tensor) -> str:
    elements = value.array.ravel()
    return show(plain(elements[0])) if elements.size == 1 else _some(elements)


def _some(elements: NDArray[Any]) -> str:
    return show([plain(element) for element in elements[:_ELEMENTS]])


def _times(canary: Canary) -> Iterator[str]:
    given = {"timeout": canary.timeout, **dataclasses.asdict(canary.budgets)}
    return (f"{key} {value:g} s" for key, value in given.items() if value is not None)
