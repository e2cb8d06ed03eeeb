"""The command that repeats a drill by its seed."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from sidecar.drill.record import SOAK, Environment

_SEED: Final = "--seed"


def everything(environment: Environment) -> str:
    """The command as it was given, with the seed that it used."""
    return _joined([*_without_seed(shlex.split(environment.command))], environment)


def one(environment: Environment, scenario: str, number: int = 1) -> str:
    """The same for one scenario alone; `number` is the round, or that of a fault in a soak."""
    words = [*_without_seed(shlex.split(environment.command))]
    if "soak" in words:
        return everything(environment) if scenario == SOAK else _of_soak(words, environment, number)
    if "drill" not in words:
        return _joined(["triton-sidecar", "drill", "run", scenario], environment)
    verb = words.index("drill") + 1
    options = verb + 1
    while options < len(words) and not words[options].startswith("-"):
        options += 1
    return _joined([*words[:verb], "run", scenario, *words[options:]], environment)


def _of_soak(words: Sequence[str], environment: Environment, number: int) -> str:
    """One fault of a soak, by its number in the series."""
    kept = words[: words.index("soak") + 1]
    return _joined([*kept, "--minutes", "1", "--start", str(number)], environment)


def _without_seed(words: Sequence[str]) -> Iterator[str]:
    left = iter(words)
    for word in left:
        if word == _SEED:
            next(left, None)
        elif not word.startswith(f"{_SEED}="):
            yield word


def _joined(words: Sequence[str], environment: Environment) -> str:
    return shlex.join([*words, _SEED, str(environment.seed)])
