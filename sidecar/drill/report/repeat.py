"""The command that repeats a drill by its seed."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from sidecar.drill.record import SOAK, Environment

_SEED: Final = "--seed"


def everything(environment: Environment) -> str:
    """The command as it was given, with the seed that it used."""
    return _joined([*_without(shlex.split(environment.command), _SEED)], environment)


def one(environment: Environment, scenario: str, number: int = 1) -> str:
    """The same for one scenario alone; `number` is the round, or that of a fault in a soak."""
    words = [*_without(shlex.split(environment.command), _SEED)]
    if "soak" in words:
        return _of_soak(words, environment, 0 if scenario == SOAK else number)
    if "drill" not in words:
        return _joined(["triton-sidecar", "drill", "run", scenario], environment)
    verb = words.index("drill") + 1
    options = verb + 1
    while options < len(words) and not words[options].startswith("-"):
        options += 1
    return _joined([*words[:verb], "run", scenario, *words[options:]], environment)


def _of_soak(words: Sequence[str], environment: Environment, number: int) -> str:
    """One fault of a soak, by its number in the series; all of it for 0. Its report is another."""
    kept = [*_without(words, "--report")]
    if number:
        alone = ("--minutes", "1", "--start", str(number))
        kept = [*_without(kept, "--minutes", "--start"), *alone]
    return _joined(kept, environment)


def _without(words: Sequence[str], *options: str) -> Iterator[str]:
    """Leave out options, each of which has a value."""
    left = iter(words)
    for word in left:
        if word in options:
            next(left, None)
        elif word.partition("=")[0] not in options:
            yield word


def _joined(words: Sequence[str], environment: Environment) -> str:
    return shlex.join([*words, _SEED, str(environment.seed)])
