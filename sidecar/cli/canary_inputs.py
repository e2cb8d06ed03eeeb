"""The inputs of a canary as a person gives them: `--input NAME=VALUE`, or a file of JSON.

Both become tables as in `[canary.MODEL]`, with the names of files made absolute.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sidecar.errors import ConfigError
from sidecar.health.expectations.exact import fits
from sidecar.settings.canary import CanaryInput
from sidecar.triton_api import ModelDescription, TensorSpec

Table = dict[str, Any]
Step = list[Table]


def from_flags(flags: Sequence[str], described: ModelDescription) -> Step:
    """One step from `NAME=VALUE`, where the model says what VALUE has to be.

    VALUE is text for BYTES, else a number or JSON; `@FILE` names a file, as in a canary's `file`.

    Raises:
        ConfigError: a flag has another form, or no such input exists.
    """
    specs = {spec.name: spec for spec in described.inputs}
    step: Step = []
    for flag in flags:
        name, equals, value = flag.partition("=")
        if not equals:
            raise ConfigError(f"--input: expected NAME=VALUE, found {flag!r}")
        if name not in specs:
            known = ", ".join(f"{spec.name} ({spec.datatype})" for spec in described.inputs)
            raise ConfigError(f"--input {name}: expected one of the inputs {known}")
        step.append(_from_flag(specs[name], value))
    return checked(step, "--input")


def from_file(path: Path) -> list[Step]:
    """The steps in a file: a list of inputs, or an object with `inputs` or `steps`.

    An input is as in KServe's JSON: `name`, `datatype`, `shape` and `data`, which may be nested; or
    `file` instead of data, relative to this file.

    Raises:
        ConfigError: it cannot be read, or is of another form.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--inputs {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"--inputs {path}: expected JSON: {error}") from error
    steps = document.get("steps") if isinstance(document, dict) else None
    if steps is None:
        steps = [document.get("inputs") if isinstance(document, dict) else document]
    if not isinstance(steps, list) or not steps or not all(map(_is_step, steps)):
        raise ConfigError(f"--inputs {path}: expected a list of inputs, or one under steps")
    return [
        checked([_anchored(table, path.absolute().parent) for table in step], f"--inputs {path}")
        for step in steps
    ]


def checked(step: Step, where: str) -> Step:
    """The step as it is, if each input is one that a canary may have.

    Raises:
        ConfigError: with every mistake, one a line.
    """
    mistakes: list[str] = []
    for table in step:
        try:
            CanaryInput.model_validate(table)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                key = ".".join(map(str, (table.get("name", "?"), *item["loc"])))
                mistakes.append(f"{where}: {key}: {item['msg'].removeprefix('Value error, ')}")
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return step


def _is_step(step: object) -> bool:
    return isinstance(step, list) and bool(step) and all(isinstance(each, dict) for each in step)


def _anchored(table: Mapping[str, Any], folder: Path) -> Table:
    found = dict(table)
    if isinstance(found.get("file"), str):
        found["file"] = str(folder / found["file"])
    if isinstance(found.get("data"), list):
        found["data"] = list(_flat(found["data"]))
    return found


def _from_flag(spec: TensorSpec, value: str) -> Table:
    table: Table = {"name": spec.name, "datatype": spec.datatype}
    if value.startswith("@"):
        path = Path(value[1:]).expanduser().absolute()
        says_itself = path.suffix.lower() in (".npy", ".json")
        shape = {} if says_itself else {"shape": [max(extent, 1) for extent in spec.shape]}
        return {**table, **shape, "file": str(path)}
    data = _parsed(spec, value)
    elements = list(_flat(data))
    return {**table, "shape": _shape(spec, _nesting(data), len(elements)), "data": elements}


def _parsed(spec: TensorSpec, value: str) -> object:
    try:
        found: object = json.loads(value)
    except ValueError:
        if spec.datatype != "BYTES":
            raise ConfigError(
                f"--input {spec.name}: expected {spec.datatype} as a number or JSON, or @FILE,"
                f" found {value!r:.80}"
            ) from None
        return value
    if spec.datatype != "BYTES" or (isinstance(found, list) and _all_text(found)):
        return found
    return value  # text that happens to be JSON, such as an object of parameters


def _all_text(found: object) -> bool:
    return all(isinstance(element, str) for element in _flat(found))


def _flat(data: object) -> Iterator[object]:
    if isinstance(data, list):
        for element in data:
            yield from _flat(element)
    else:
        yield data


def _nesting(data: object) -> tuple[int, ...]:
    if not isinstance(data, list):
        return ()
    return (len(data), *(_nesting(data[0]) if data else ()))


def _shape(spec: TensorSpec, nesting: tuple[int, ...], count: int) -> list[int]:
    """How elements given with this nesting are laid out, in a batch of one if there is one."""
    for shape in (nesting, (1, *nesting)):
        if fits(spec.shape, shape) and math.prod(shape) == count:
            return [*shape]
    extents = [max(extent, 1) for extent in spec.shape]
    free = [axis for axis, extent in enumerate(spec.shape) if extent < 0]
    if free:
        extents[free[-1]] = max(count // max(math.prod(extents), 1), 1)
    if math.prod(extents) != count:
        raise ConfigError(
            f"--input {spec.name}: expected elements for the shape {[*spec.shape]}, found {count}"
        )
    return extents
