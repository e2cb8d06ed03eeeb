"""Parses the inputs of a canary from `--input NAME=VALUE`, or from a file of JSON.

Both become tables as in `[canary.MODEL]`, with absolute file names. Errors are in terms of the
options, because the caller has not seen such a table.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sidecar.health.canary.bytes_elements import is_blob
from sidecar.health.canary.definition import Canary
from sidecar.health.canary.expectations.exact import fits
from sidecar.health.canary.input_files import read_tensor
from sidecar.health.canary.judge import misfit
from sidecar.runtime.errors import ConfigError
from sidecar.settings.mistakes import message_for
from sidecar.settings.tables.canary import CanaryInput
from sidecar.triton.api import ModelDescription, Tensor, TensorSpec
from sidecar.triton.tensors import tensor

Table = dict[str, Any]
_FORM = "a list of inputs, or an object with inputs or with steps, a list of such lists"


@dataclass(frozen=True, slots=True)
class Step:
    """The inputs of one request; `where` precedes an input's name in errors."""

    tables: Sequence[Table]
    where: str

    def mistake(self, text: str) -> str:
        """The text of a mistake, which may begin with an input's name."""
        name, colon, _ = text.partition(": ")
        named = colon and any(table.get("name") == name for table in self.tables)
        return f"{self.where}{text}" if named else f"{self.where.rstrip(': ')}: {text}"


def from_flags(flags: Sequence[str], described: ModelDescription) -> Step:
    """One step from `NAME=VALUE`; the model's metadata gives the type of VALUE.

    VALUE is text for BYTES, else a number or JSON; `@FILE` names a file, as in a canary's `file`.

    Raises:
        ConfigError: a flag has another form, no such input exists, or one is given twice.
    """
    specs = {spec.name: spec for spec in described.inputs}
    tables: list[Table] = []
    for flag in flags:
        name, equals, value = flag.partition("=")
        if not equals:
            raise ConfigError(f"--input: expected NAME=VALUE, found {flag!r:.80}")
        if name not in specs:
            known = ", ".join(f"{spec.name} ({spec.datatype})" for spec in described.inputs)
            raise ConfigError(f"--input {name}: expected one of the inputs {known}")
        try:
            tables.append(_from_flag(specs[name], value))
        except ValueError as error:
            raise ConfigError(f"--input {name}: {error}") from None
    return _checked(Step(tables, "--input "))


def from_file(path: Path) -> list[Step]:
    """The steps in a file: a list of inputs, or an object with `inputs` or `steps`.

    An input is as in KServe's JSON: `name`, `datatype`, `shape` and `data`, which may be nested; or
    `file` instead of data, relative to this file. `request_fields` reads its other fields. An
    input's own parameters are refused: Triton passes them to no model.

    Raises:
        ConfigError: it cannot be read, or has another form.
    """
    source = f"--inputs {path}: "
    lists = _lists(document(path))
    if not lists or not all(map(_is_step, lists)):
        raise ConfigError(f"{source}expected {_FORM}")
    numbered = len(lists) > 1
    return [
        _from_tables(tables, f"{source}{f'steps.{number}: ' if numbered else ''}", path.parent)
        for number, tables in enumerate(lists)
    ]


def document(path: Path) -> object:
    """The content of a file of JSON.

    Raises:
        ConfigError: it cannot be read.
    """
    source = f"--inputs {path}: "
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        wanted = "expected a file of inputs in JSON"
        raise ConfigError(f"{source}{wanted}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source}expected JSON: {error}") from error


def tensors(steps: Sequence[Step], described: ModelDescription) -> Sequence[Mapping[str, Tensor]]:
    """The tensors of the steps; reads the files that they name.

    Raises:
        ConfigError: a file has other content, or the model takes other inputs.
    """
    if len(steps) > 1 and not described.stateful:
        raise ConfigError(f"--inputs: {described.name} is not stateful: expected no steps")
    found = [_tensors(step) for step in steps]
    for step, values in zip(steps, found, strict=True):
        fault = misfit(Canary(described.name, (values,), ()), described)
        if fault:
            raise ConfigError(step.mistake(fault.removeprefix(f"canary.{described.name}.inputs: ")))
    return found


def _tensors(step: Step) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    mistakes: list[str] = []
    for table in step.tables:
        given = CanaryInput.model_validate(table)
        try:
            found[given.name] = _tensor(given)
        except ValueError as error:
            mistakes.append(step.mistake(f"{given.name}: {given.file}: {error}"))
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return found


def _tensor(given: CanaryInput) -> Tensor:
    if given.file is None:
        return tensor(given.datatype, given.shape or (), given.data or ())
    return read_tensor(given.file, given.datatype, given.shape)


def _checked(step: Step) -> Step:
    """Return the step unchanged, if its inputs are valid for a canary.

    Raises:
        ConfigError: with every mistake, one a line.
    """
    names = [table.get("name") for table in step.tables]
    mistakes = [
        step.mistake(f"{name}: expected once")
        for name in dict.fromkeys(name for name in names if isinstance(name, str))
        if names.count(name) > 1
    ]
    for table in step.tables:
        mistakes += map(step.mistake, _mistakes(table, flag=step.where == "--input "))
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return step


def _mistakes(table: Table, flag: bool) -> Iterator[str]:
    """The mistakes in an input; for a flag they name no keys."""
    name = table.get("name", "?")
    try:
        CanaryInput.model_validate(table)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            key = ".".join(map(str, item["loc"]))
            message = message_for(CanaryInput, item, table)
            if item["type"] == "extra_forbidden":
                message = f"a canary sends none; expected {', '.join(CanaryInput.model_fields)}"
            if flag:
                key, message = "", message.removeprefix("data: ")
            yield ": ".join(filter(None, (str(name), key, message)))


def _lists(document: object) -> list[object]:
    """The lists of inputs in a document, if it has any."""
    if isinstance(document, list):
        return [document]
    if not isinstance(document, dict) or ("inputs" in document) == ("steps" in document):
        return []
    steps = document["steps"] if "steps" in document else [document["inputs"]]
    return steps if isinstance(steps, list) else []


def _is_step(step: object) -> bool:
    return isinstance(step, list) and all(isinstance(each, dict) for each in step)


def _from_tables(tables: Any, where: str, folder: Path) -> Step:
    try:
        found = [_from_table(table, folder.absolute()) for table in tables]
    except ValueError as error:
        raise ConfigError(f"{where}{error}") from None
    return _checked(Step(found, where))


def _from_table(table: Mapping[str, Any], folder: Path) -> Table:
    found = {key: value for key, value in table.items() if key != "parameters" or value}
    if isinstance(found.get("file"), str):
        found["file"] = str(folder / found["file"])
    if isinstance(found.get("data"), list):
        name, shape = found.get("name", "?"), found.get("shape")
        try:
            extents, found["data"] = _flattened(found["data"])
        except ValueError as error:
            raise ValueError(f"{name}: data: {error}") from None
        if len(extents) > 1 and isinstance(shape, list) and [*extents] != shape:
            raise ValueError(f"{name}: data: expected the shape {shape}, found {[*extents]}")
    return found


def _from_flag(spec: TensorSpec, value: str) -> Table:
    """An input as a table.

    Raises:
        ValueError: the value is not valid for this input.
    """
    table: Table = {"name": spec.name, "datatype": spec.datatype}
    if value.startswith("@"):
        path = Path(value[1:]).expanduser().absolute()
        has_shape = path.suffix.lower() in (".npy", ".json")
        shape = {} if has_shape else {"shape": [max(extent, 1) for extent in spec.shape]}
        return {**table, **shape, "file": str(path)}
    extents, elements = _parsed(spec, value)
    return {**table, "shape": _shape(spec, extents, len(elements)), "data": elements}


def _parsed(spec: TensorSpec, value: str) -> tuple[tuple[int, ...], list[object]]:
    """The shape of a value, and its elements."""
    try:
        found: object = json.loads(value)
    except (ValueError, RecursionError):
        if spec.datatype != "BYTES":
            wanted = f"expected {spec.datatype} as a number or JSON, or @FILE"
            raise ValueError(f"{wanted}, found {value!r:.80}") from None
        return (), [value]
    if spec.datatype != "BYTES":
        return _flattened(found)
    # Text that happens to be JSON, such as an object of parameters, is text.
    elements = _leaves(found) if isinstance(found, list) else iter(())
    if isinstance(found, list) and all(isinstance(e, str) or is_blob(e) for e in elements):
        return _flattened(found)
    return (), [value]


def _leaves(data: object) -> Iterator[object]:
    if isinstance(data, list):
        for element in data:
            yield from _leaves(element)
    else:
        yield data


def _flattened(data: object) -> tuple[tuple[int, ...], list[object]]:
    """The shape of nested lists, and their elements in row-major order.

    Raises:
        ValueError: lists of the same level differ in length.
    """
    if not isinstance(data, list):
        return (), [data]
    parts = [_flattened(each) for each in data]
    if len({extents for extents, _ in parts}) > 1:
        raise ValueError("expected lists of equal length at each level")
    inner = parts[0][0] if parts else ()
    return (len(data), *inner), [element for _, elements in parts for element in elements]


def _shape(spec: TensorSpec, extents: tuple[int, ...], count: int) -> list[int]:
    """The shape for elements of this extent, in a batch of one if the model has batches.

    Raises:
        ValueError: the model takes no such shape; only a flat list is reshaped.
    """
    for shape in (extents, (1, *extents)):
        if fits(spec.shape, shape) and math.prod(shape) == count:
            return [*shape]
    if len(extents) > 1:
        raise ValueError(f"expected the shape {[*spec.shape]}, found {[*extents]}")
    wanted = [max(extent, 1) for extent in spec.shape]
    free = [axis for axis, extent in enumerate(spec.shape) if extent < 0]
    if free:
        wanted[free[-1]] = max(count // max(math.prod(wanted), 1), 1)
    if math.prod(wanted) != count:
        raise ValueError(f"expected elements for the shape {[*spec.shape]}, found {count}")
    return wanted
