"""What a request may ask of the generator: parsing and bounds, no Triton in here.

Names and meanings follow vLLM's sampling parameters, so that a client written for the vLLM
backend can be pointed at tinychat. As there, a number may come as a string.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MAX_TOKENS = 4096
MAX_DELAY_MS = 10_000.0
MAX_DURATION_S = 600.0


class BadRequest(ValueError):
    """The caller sent something that cannot be answered; the message is meant for the caller."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to continue a prompt. `delay_ms`: milliseconds of waiting before each token.

    `top_k`: 0 or -1 means all candidates. `name_instance`: the answer names the instance. Every
    field has a default, so an answer without any parameters is deterministic too.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    delay_ms: float = 0.0
    name_instance: bool = False

    @property
    def delay(self) -> float:
        """Seconds of waiting before each token."""
        return self.delay_ms / 1000


def parse(text: str, delay_ms: float) -> Sampling:
    """Read `sampling_parameters` (a JSON object, or empty). `delay_ms`: the model's default.

    Raises BadRequest naming the parameter and what was expected.
    """
    given = _load(text)
    unknown = sorted(set(given) - set(_READERS))
    if unknown:
        known = ", ".join(_READERS)
        raise BadRequest(f"sampling_parameters: unknown {', '.join(unknown)}; known are {known}")
    values = {name: _READERS[name](name, value) for name, value in given.items()}
    sampling = Sampling(**{"delay_ms": delay_ms, **values})  # type: ignore[arg-type]
    duration = sampling.max_tokens * sampling.delay
    if duration > MAX_DURATION_S:
        raise BadRequest(
            f"sampling_parameters: max_tokens x delay_ms is {duration:g} s, "
            f"expected at most {MAX_DURATION_S:g} s"
        )
    return sampling


def check_delay_ms(name: str, value: object) -> float:
    """Return a delay in milliseconds; raises BadRequest naming `name` if it is out of bounds."""
    expected = f"a number from 0 to {MAX_DELAY_MS:g}"
    return number(name, value, expected, lambda delay: 0 <= delay <= MAX_DELAY_MS)


def _load(text: str) -> Mapping[str, object]:
    if not text.strip():
        return {}
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"sampling_parameters: not JSON ({error})") from None
    if not isinstance(given, dict):
        raise BadRequest(f"sampling_parameters: expected a JSON object, got {_shown(given)}")
    return given


def number(name: str, value: object, expected: str, fits: Callable[[float], bool]) -> float:
    """Return `value` as a float; raises BadRequest unless it is one that `fits`."""
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            given = float(value)
        except (ValueError, OverflowError):
            given = math.nan
        if math.isfinite(given) and fits(given):
            return given
    raise BadRequest(f"{name}: expected {expected}, got {_shown(value)}")


def integer(name: str, value: object, lowest: int, highest: int) -> int:
    """Return `value` as an int; raises BadRequest unless it is within the bounds."""
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            given = int(value)
        except ValueError:
            given = lowest - 1
        if lowest <= given <= highest:
            return given
    raise BadRequest(
        f"{name}: expected a whole number from {lowest} to {highest}, got {_shown(value)}"
    )


def boolean(name: str, value: object) -> bool:
    """Return `value` if it is true or false; raises BadRequest otherwise."""
    if isinstance(value, bool):
        return value
    raise BadRequest(f"{name}: expected true or false, got {_shown(value)}")


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:40] + "..."


_READERS: Mapping[str, Callable[[str, object], float]] = {
    "max_tokens": lambda name, value: integer(name, value, 1, MAX_TOKENS),
    "temperature": lambda name, value: number(
        name, value, "a number from 0 to 2", lambda given: 0 <= given <= 2
    ),
    "top_k": lambda name, value: integer(name, value, -1, 2**31 - 1),
    "top_p": lambda name, value: number(
        name, value, "a number above 0 and at most 1", lambda given: 0 < given <= 1
    ),
    "seed": lambda name, value: integer(name, value, -(2**63), 2**63 - 1),
    "delay_ms": check_delay_ms,
    "name_instance": boolean,
}
