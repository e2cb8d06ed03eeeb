"""Builds canaries from the settings and the files that they name."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from sidecar.health.canary import expectations as kinds
from sidecar.health.canary.definition import Budgets, Canary
from sidecar.health.canary.expectations import Expectation
from sidecar.health.canary.input_files import (
    UnreadError,
    read_direction,
    read_schema,
    read_tensor,
    read_vector,
)
from sidecar.runtime.errors import ConfigError, FileUnreadable, combined
from sidecar.settings import SidecarSettings
from sidecar.settings.tables.canary import CanaryExpectation, CanaryInput, CanarySettings
from sidecar.triton.api import Tensor
from sidecar.triton.tensors import tensor

T = TypeVar("T")


def build_all(settings: SidecarSettings) -> list[Canary]:
    """The configured canaries, sorted by model name; reads their files.

    Raises:
        ConfigError: lists every mistake.
    """
    canaries: list[Canary] = []
    mistakes: list[ConfigError] = []
    for model in sorted(settings.canary):
        try:
            canaries.append(build(model, settings.canary[model]))
        except ConfigError as error:
            mistakes.append(error)
    if mistakes:
        raise combined(mistakes)
    return canaries


def build(model: str, settings: CanarySettings) -> Canary:
    """A model's canary.

    Raises:
        ConfigError: lists every mistake in the files that it names.
    """
    read = _Reader()
    key = f"canary.{model}"
    if settings.steps is None:
        steps = [_step(settings.inputs or (), f"{key}.inputs", read)]
    else:
        steps = [
            _step(inputs, f"{key}.steps.{number}", read)
            for number, inputs in enumerate(settings.steps)
        ]
    wanted = [
        expectation
        for number, each in enumerate(settings.expect)
        for expectation in _expectations(each, f"{key}.expect.{number}", read)
    ]
    if read.mistakes:
        raise combined(read.mistakes)
    return Canary(
        model=model,
        steps=tuple(steps),
        expectations=tuple(wanted),
        timeout=settings.timeout,
        stall=settings.stall,
        version=settings.version or "",
        parameters=settings.parameters,
        id=settings.id,
        budgets=Budgets(**settings.latency.model_dump()),
    )


class _Reader:
    """Reads files and collects their mistakes."""

    def __init__(self) -> None:
        self.mistakes: list[ConfigError] = []

    def __call__(self, path: Path, key: str, read: Callable[[Path], T]) -> T | None:
        try:
            return read(path)
        except ValueError as error:
            kind = FileUnreadable if isinstance(error, UnreadError) else ConfigError
            self.mistakes.append(kind(f"{path}: {key}: {error}"))
            return None


def _step(inputs: tuple[CanaryInput, ...], key: str, read: _Reader) -> Mapping[str, Tensor]:
    tensors = {
        given.name: _tensor(given, f"{key}.{number}.file", read)
        for number, given in enumerate(inputs)
    }
    return {name: value for name, value in tensors.items() if value is not None}


def _tensor(given: CanaryInput, key: str, read: _Reader) -> Tensor | None:
    if given.file is None:
        return tensor(given.datatype, given.shape or (), given.data or ())
    return read(given.file, key, lambda path: read_tensor(path, given.datatype, given.shape))


def _expectations(wanted: CanaryExpectation, key: str, read: _Reader) -> Iterator[Expectation]:
    """The table's expectations of its output; the form first, because it explains most faults."""
    output = wanted.output
    if wanted.datatype is not None:
        yield kinds.Datatype(output, wanted.datatype)
    if wanted.shape is not None:
        yield kinds.Shape(output, wanted.shape)
    if wanted.min_length is not None or wanted.max_length is not None:
        yield kinds.Length(output, wanted.min_length or 0, wanted.max_length)
    if wanted.finite:
        yield kinds.Finite(output)
    if wanted.equals is not None:
        yield kinds.Equals(output, wanted.equals)
    yield from _of_text(wanted, key, read)
    yield from _of_numbers(wanted, key, read)
    if wanted.label is not None:
        yield kinds.Label(output, wanted.label)
    if wanted.image is not None:
        yield kinds.Image(output, wanted.image.min_width, wanted.image.min_height)


def _of_text(wanted: CanaryExpectation, key: str, read: _Reader) -> Iterator[Expectation]:
    if wanted.not_degenerate:
        yield kinds.NotDegenerate(wanted.output)
    if wanted.contains is not None:
        yield kinds.Contains(wanted.output, wanted.contains)
    if wanted.regex is not None:
        yield kinds.Regex(wanted.output, wanted.regex)
    schema = wanted.json_schema
    if isinstance(schema, Path):
        schema = read(schema, f"{key}.json_schema", read_schema)
    if schema is not None:
        yield kinds.JsonSchema(wanted.output, schema)


def _of_numbers(wanted: CanaryExpectation, key: str, read: _Reader) -> Iterator[Expectation]:
    close, direction = wanted.allclose, wanted.cosine
    vector = read(close, f"{key}.allclose", read_vector) if isinstance(close, Path) else close
    if vector is not None:
        yield kinds.AllClose(wanted.output, vector, wanted.atol, wanted.rtol)
    if isinstance(direction, Path):
        vector = read(direction, f"{key}.cosine", read_direction)
    else:
        vector = direction
    if vector is not None:
        yield kinds.Cosine(wanted.output, vector, wanted.at_least)
