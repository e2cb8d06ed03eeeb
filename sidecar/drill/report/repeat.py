"""The command that repeats a drill by its seed."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from sidecar.drill.record import Environment

_SEED: Final = "--seed"


def everything(environment: Environment) -> str:
    """The command as it was given, with the seed that it used."""
    return _joined([*_without_seed(shlex.split(environment.command))], environment)


def one(environment: Environment, scenario: str) -> str:
    """The same for one scenario alone."""
    words = [*_without_seed(shlex.split(environment.command))]
    if "drill" not in words:
        return _joined(["triton-sidecar", "drill", "run", scenario], environment)
    verb = words.index("drill") + 1
    options = verb + 1
    while options < len(words) and not words[options].startswith("-"):
        options += 1
    return _joined([*words[:verb], "run", scenario, *words[options:]], environment)


def _without_seed(words: Sequence[str]) -> Iterator[str]:
    left = iter(words)
    for word in left:
        if word == _SEED:
            next(left, None)
        elif not word.startswith(f"{_SEED}="):
            yield word


def _joined(words: Sequence[str], environment: Environment) -> str:
    return shlex.join([*words, _SEED, str(environment.seed)])
