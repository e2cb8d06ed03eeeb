"""What a faulty model answers, and which fault it has been told to show.

Told by `.control.json` in the model's own folder, which is read at each request. Its name begins
with a dot, so that it is no part of the model set:

    {"fault": "slow", "factor": 20}

`fault` is one of FAULTS; without the file, or with "none", all is well. Further keys: `factor` of
"slow", `share` of "error" (0.1: one time in ten), `mebibytes` of "huge", `until_restart` (the fault
ends with the process, whatever the file says), `triton` (it ends with the tritonserver of this
pid). `load_seconds`, with any fault, is how long the model takes to load. Canaries and clients are
treated alike.

With "out_of_memory" the model fails as if the GPU had no memory left: it answers nothing, and it
cannot be loaded either.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FAULTS = (
    *("none", "wrong", "nan", "empty", "degenerate", "error", "hang", "slow", "huge"),
    "out_of_memory",
)
# As PyTorch says it.
_OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 256.00 MiB. GPU 0 has a total capacity of 79.15 GiB "
    "of which 12.62 MiB is free"
)
WORK = 0.005  # seconds that an answer takes
_WORDS = 12
_VECTOR = 8
_VOCABULARY = (
    *("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron"),
    *("inlet", "juniper", "kelp", "lark", "maple", "nettle", "osprey", "pine"),
)
_POLL = 0.05


class StagedError(Exception):
    """The fault "error" or "out_of_memory", or a control file that nobody can follow."""


@dataclass(frozen=True)
class Answer:
    """The right answer to a text, or what a fault makes of it."""

    words: tuple[str, ...]
    vector: npt.NDArray[np.float32]

    @property
    def text(self) -> str:
        """All words."""
        return " ".join(self.words)


def right(text: str) -> Answer:
    """The right answer: always the same for the same text, on every machine."""
    seed = hashlib.sha256(text.encode()).digest()
    words = [_VOCABULARY[zlib.crc32(seed + bytes([place])) % 16] for place in range(_WORDS)]
    # No word twice in a row: a healthy answer must not look degenerate.
    for place in range(1, _WORDS):
        if words[place] == words[place - 1]:
            words[place] = _VOCABULARY[(_VOCABULARY.index(words[place]) + 1) % 16]
    numbers = np.frombuffer(seed[:_VECTOR], dtype=np.uint8).astype(np.float32)
    return Answer(tuple(words), numbers / np.float32(256))


@dataclass
class Stage:
    """Answers texts as the control file says. `folder` is the model's own."""

    folder: Path
    _chance: random.Random = field(default_factory=lambda: random.Random(0))
    _loaded_with: int | None = None

    def __post_init__(self) -> None:
        self._loaded_with = self._written()
        control = self._control()
        if control.get("fault") == "out_of_memory":
            raise StagedError(_OUT_OF_MEMORY)
        time.sleep(float(control.get("load_seconds", 0)))

    def answer(self, text: str) -> Answer:
        """The answer to a text, after the time that it takes.

        Raises StagedError if the request is to fail.
        """
        control = self._control()
        fault = control.get("fault", "none")
        if fault not in FAULTS:
            raise StagedError(f".control.json: expected one of {', '.join(FAULTS)}, got {fault!r}")
        time.sleep(WORK * (control.get("factor", 20) if fault == "slow" else 1))
        if fault == "hang":
            self._hang(control)
        if fault == "error" and self._chance.random() < control.get("share", 1.0):
            raise StagedError("told to fail")
        if fault == "out_of_memory":
            raise StagedError(_OUT_OF_MEMORY)
        return _spoilt(right(text), fault, control)

    def _hang(self, control: Mapping[str, Any]) -> None:
        while control.get("until_restart") or self._control() == control:
            time.sleep(_POLL)

    def _control(self) -> Mapping[str, Any]:
        try:
            control: dict[str, Any] = json.loads((self.folder / ".control.json").read_bytes())
        except FileNotFoundError:
            return {}
        if control.get("until_restart") and self._loaded_with == self._written():
            return {key: value for key, value in control.items() if key == "load_seconds"}
        # Triton's Python backend runs a model in a child of the server.
        if control.get("triton", os.getppid()) != os.getppid():
            return {}
        return control

    def _written(self) -> int | None:
        """When the control file was written, in nanoseconds, or None if there is none."""
        try:
            return (self.folder / ".control.json").stat().st_mtime_ns
        except FileNotFoundError:
            return None


def _spoilt(answer: Answer, fault: str, control: Mapping[str, Any]) -> Answer:
    match fault:
        case "wrong":
            return right("another question: " + answer.text)
        case "nan":
            vector = answer.vector.copy()
            vector[_VECTOR // 2] = np.nan
            return Answer(answer.words, vector)
        case "empty":
            return Answer((), answer.vector)
        case "degenerate":
            return Answer((answer.words[0],) * _WORDS, answer.vector)
        case "huge":
            return Answer(("x" * (control.get("mebibytes", 64) << 20),), answer.vector)
    return answer
