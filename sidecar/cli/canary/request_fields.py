"""Parses the fields of a canary's requests other than inputs: parameters and an id."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sidecar.cli.canary import input_parsing
from sidecar.runtime.errors import ConfigError
from sidecar.settings.tables.canary_values import parameters, request_id

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RequestFields:
    """The fields of a request other than its inputs; empty if not given."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""

    def over(self, other: "RequestFields") -> "RequestFields":
        """Merge both; these take precedence."""
        return RequestFields({**other.parameters, **self.parameters}, self.id or other.id)


def from_flags(flags: Sequence[str], id: str | None) -> RequestFields:
    """Parameters from `NAME=VALUE`; VALUE is a boolean, a number or a string of JSON, else text.

    Raises:
        ConfigError: a flag has another form, or is not a valid parameter.
    """
    found: dict[str, Any] = {}
    for flag in flags:
        name, equals, value = flag.partition("=")
        if not equals:
            raise ConfigError(f"--parameter: expected NAME=VALUE, found {flag!r:.80}")
        if name in found:
            raise ConfigError(f"--parameter {name}: expected once")
        found[name] = _parameter(value)
    return RequestFields(
        _read(parameters, found, "--parameter"), _read(request_id, id or "", "--id")
    )


def from_file(path: Path) -> RequestFields:
    """The `parameters` and the `id` of a file of inputs.

    Raises:
        ConfigError: they cannot be sent.
    """
    document = input_parsing.document(path)
    if not isinstance(document, dict):
        return RequestFields()
    given = document.get("parameters", {})
    return RequestFields(
        _read(parameters, given, f"--inputs {path}: parameters"),
        _read(request_id, document.get("id", ""), f"--inputs {path}: id"),
    )


def _read(read: Callable[[object], T], given: object, where: str) -> T:
    try:
        return read(given)
    except ValueError as error:
        text = str(error) if ", found " in str(error) else f"{error}, found {given!r:.80}"
        raise ConfigError(f"{where}: {text}") from None


def _parameter(value: str) -> object:
    try:
        found: object = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, bool | int | float | str) else value
