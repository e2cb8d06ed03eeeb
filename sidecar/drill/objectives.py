"""Objectives: what a drill may cost, by default or from the file of `--slo FILE`.

availability = 0.999     # the error budget is the rest: one request in a thousand
rto = "500ms"            # or seconds as a number

[scenario.freeze]        # what is not here is as above
rto = 2.0
"""

import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sidecar.runtime.errors import ConfigError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}
_LONGEST = 86400.0  # seconds
_SHOWN = 80  # characters of a value


@dataclass(frozen=True, slots=True)
class Objectives:
    """The bounds of one run. Times are seconds after the injection.

    Attributes:
        availability: the share of all unary requests of the run that must be answered.
        detection: until the victim's verdict changed, where it must.
        rto: until an instance that was not primary gave its first right answer, where the role
            moves. If the victim is the mesh, from when the old primary stopped serving.
        longest_gap: for which one client was without a right answer, where none may fail.
        wrong_window: in which requests may be sent whose answers are wrong, where some can be: two
            probe intervals.
        recovered: until everything was as before, once the fault was removed.
        memory_growth: MiB an hour by which the resident memory of a process may grow in a soak.
    """

    availability: float = 0.999
    detection: float = 10.0
    rto: float = 10.0
    longest_gap: float = 10.0
    wrong_window: float = 5.0
    recovered: float = 120.0
    memory_growth: float = 16.0


@dataclass(frozen=True, slots=True)
class ObjectivesByScenario:
    """The general objectives, and those of some scenarios by name."""

    general: Objectives = Objectives()
    scenarios: Mapping[str, Objectives] = field(default_factory=dict)

    def of(self, scenario: str) -> Objectives:
        """The objectives of a scenario."""
        return self.scenarios.get(scenario, self.general)

    def named(self) -> dict[str, float]:
        """All of them, as a record stores them: `rto`, and `freeze.rto` where it differs."""
        found = _values(self.general)
        for scenario, own in self.scenarios.items():
            for name, value in _values(own).items():
                if value != found[name]:
                    found[f"{scenario}.{name}"] = value
        return found


def parse(text: str, where: str, known: Collection[str]) -> ObjectivesByScenario:
    """The objectives in the text of a file.

    Args:
        text: TOML.
        where: names the file in errors.
        known: the names of all scenarios.

    Raises:
        ConfigError: lists every mistake, one a line: file, key, what was expected and found.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: expected TOML, found a mistake: {error}") from error
    mistakes: list[str] = []
    tables = document.pop("scenario", {})
    general = replace(Objectives(), **_read(document, "", mistakes))
    scenarios: dict[str, Objectives] = {}
    if not isinstance(tables, dict):
        mistakes.append(f"scenario: expected a table, found {_shown(tables)}")
        tables = {}
    for name, table in tables.items():
        key = f"scenario.{_key(name)}"
        if name not in known:
            mistakes.append(f"{key}: unknown scenario; `triton-sidecar drill list` lists all")
        elif not isinstance(table, dict):
            mistakes.append(f"{key}: expected a table, found {_shown(table)}")
        else:
            scenarios[name] = replace(general, **_read(table, f"{key}.", mistakes))
    if mistakes:
        raise ConfigError("\n".join(f"{where}: {each}" for each in mistakes))
    return ObjectivesByScenario(general, scenarios)


def budget_used(sent: int, failed: int, objectives: Objectives) -> float:
    """The share of the error budget that the failures used; infinite if there is no budget."""
    allowed = sent * (1.0 - objectives.availability)
    if not failed:
        return 0.0
    return failed / allowed if allowed else float("inf")


def _read(table: Mapping[str, Any], prefix: str, mistakes: list[str]) -> dict[str, float]:
    """The values of a table that are right; adds what is wrong to `mistakes`."""
    found: dict[str, float] = {}
    for name, value in table.items():
        if name not in _KEYS:
            known = ", ".join(_KEYS)
            wrong = f"unknown key; expected one of {known}" + ("" if prefix else ", scenario")
            mistakes.append(f"{prefix}{_key(name)}: {wrong}")
            continue
        expected, read = _KEYS[name]
        if (number := read(value)) is None:
            mistakes.append(f"{prefix}{name}: expected {expected}, found {_shown(value)}")
        else:
            found[name] = number
    return found


def _share(value: object) -> float | None:
    found = _number(value)
    return found if found is not None and 0 <= found <= 1 else None


def _above_zero(value: object) -> float | None:
    found = _number(value)
    return found if found is not None and found > 0 else None


def _seconds(value: object) -> float | None:
    found = _number(value)
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m)", value)
        found = float(match[1]) * _UNITS[match[2]] if match else None
    return found if found is not None and 0 < found <= _LONGEST else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # An int may exceed all floats.
    return float(value) if abs(value) <= _LONGEST else None


def _values(objectives: Objectives) -> dict[str, float]:
    return {each.name: getattr(objectives, each.name) for each in fields(objectives)}


def _key(name: str) -> str:
    """A key as TOML writes it."""
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else repr(name[:_SHOWN])


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _keys() -> Iterator[tuple[str, tuple[str, Callable[[object], float | None]]]]:
    """What is expected at each key, and how it is read: None for another value."""
    for each in fields(Objectives):
        if each.name == "availability":
            yield each.name, ("a share from 0 to 1, such as 0.999", _share)
        elif each.name == "memory_growth":
            yield each.name, ("MiB an hour, above 0, such as 16", _above_zero)
        else:
            yield each.name, ('a time above 0, such as 1.5 (seconds) or "500ms"', _seconds)


_KEYS: Mapping[str, tuple[str, Callable[[object], float | None]]] = dict(_keys())
