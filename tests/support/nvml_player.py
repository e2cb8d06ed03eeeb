"""A replacement for pynvml that replays a recording (see `sidecar.gpu.recording`)."""

import ctypes
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml

RECORDINGS = Path(__file__).parent / "nvml"
_CLOSING = ("nvmlShutdown", "nvmlEventSetFree")


class Player:
    """Returns what was recorded in this round, or else in the last one that has the call.

    The last of several answers to a call is repeated. A call that was never recorded is an error
    of the test.
    """

    def __init__(self, rounds: list[dict[str, Any]]) -> None:
        self.calls: Counter[str] = Counter()
        self._rounds = rounds
        self._now = 0
        self._given: Counter[tuple[int, str]] = Counter()
        self._handles: dict[str, int] = {}

    @classmethod
    def of(cls, name: str) -> "Player":
        recording = json.loads((RECORDINGS / f"{name}.json").read_text(encoding="utf-8"))
        return cls(recording["rounds"])

    @property
    def rounds(self) -> int:
        return len(self._rounds)

    def turn(self) -> None:
        """Start the next round."""
        self._now += 1

    def __getattr__(self, name: str) -> Any:
        found = getattr(pynvml, name)  # constants and error classes are those of pynvml
        if not name.startswith("nvml") or not callable(found):
            return found
        return lambda *arguments: self._play(name, arguments)

    def _play(self, name: str, arguments: tuple[Any, ...]) -> Any:
        self.calls[name] += 1
        if name in _CLOSING:
            return None
        call = f"{name}({', '.join(str(self._named(argument)) for argument in arguments)})"
        for number in range(self._now, -1, -1):
            if call in self._rounds[number]:
                return self._answer(self._next(number, call, self._rounds[number][call]))
        raise LookupError(f"the recording has no answer to {call}")

    def _next(self, number: int, call: str, recorded: Any) -> Any:
        if not (isinstance(recorded, dict) and "answers" in recorded):
            return recorded
        answers = recorded["answers"]
        position = self._given[number, call]
        self._given[number, call] += 1
        return answers[min(position, len(answers) - 1)]

    def _answer(self, recorded: Any) -> Any:
        if isinstance(recorded, list):
            return [self._answer(each) for each in recorded]
        if not isinstance(recorded, dict):
            return recorded
        if "error" in recorded:
            error = recorded["error"]
            raise pynvml.NVMLError(error if isinstance(error, int) else getattr(pynvml, error))
        if "handle" in recorded:
            address = self._handles.setdefault(recorded["handle"], 0x1000 + len(self._handles))
            return ctypes.cast(address, pynvml.c_nvmlDevice_t)
        return SimpleNamespace(**{key: self._answer(value) for key, value in recorded.items()})

    def _named(self, argument: Any) -> object:
        if not isinstance(argument, ctypes._Pointer):
            return argument
        address = ctypes.cast(argument, ctypes.c_void_p).value
        return next(name for name, known in self._handles.items() if known == address)
