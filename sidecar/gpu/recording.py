"""Records NVML's answers, so that tests can replay those of a real GPU.

A recording is JSON: `rounds` is a list of readings, each a mapping from a call, written as text
(`nvmlDeviceGetMemoryInfo(h1)`), to its answer. Handles are `{"handle": "h1"}`, errors
`{"error": "NVML_ERROR_NOT_SUPPORTED"}`, structures mappings of their fields, and several answers
to the same call in one round `{"answers": [...]}`.

Acts: through what it imports or is given.
"""

import ctypes
from collections.abc import Mapping
from typing import Any

from sidecar.gpu.nvml_errors import FAULTS


class Recorder:
    """A replacement for `pynvml` that forwards every call and records the answer.

    Args:
        module: `pynvml`, or a replacement for it.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._handles: dict[int, str] = {}
        self._round: dict[str, list[Any]] = {}
        self.rounds: list[dict[str, Any]] = []

    def end_round(self) -> None:
        """Start the next reading."""
        # A reading that was not awaited to its end continues in NVML's thread.
        ended, self._round = self._round, {}
        self.rounds.append(
            {
                call: answers[0] if len(answers) == 1 else {"answers": answers}
                for call, answers in ended.items()
            }
        )

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        # Some NVML constants are lower case, too; only calls are recorded.
        if not name.startswith("nvml") or not callable(found):
            return found

        def recorded(*arguments: Any) -> Any:
            call = f"{name}({', '.join(str(self._named(argument)) for argument in arguments)})"
            answers = self._round.setdefault(call, [])
            try:
                answer = found(*arguments)
            except self._module.NVMLError as error:
                answers.append({"error": self._error(error.value)})
                raise
            answers.append(self._plain(answer))
            return answer

        return recorded

    def _error(self, code: int) -> str | int:
        return next((name for name in FAULTS if getattr(self._module, name, None) == code), code)

    def _named(self, argument: Any) -> object:
        return self._handle(argument) if _is_pointer(argument) else argument

    def _handle(self, pointer: Any) -> str:
        address = ctypes.cast(pointer, ctypes.c_void_p).value or 0
        return self._handles.setdefault(address, f"h{len(self._handles) + 1}")

    def _plain(self, answer: Any) -> Any:
        """The answer as a JSON value; anything else becomes text."""
        if answer is None or isinstance(answer, bool | int | float | str):
            return answer
        if _is_pointer(answer):
            return {"handle": self._handle(answer)}
        if isinstance(answer, list | tuple):
            return [self._plain(each) for each in answer]
        if isinstance(answer, ctypes.Structure):
            names = (field[0] for field in answer._fields_)
            return {name: self._plain(getattr(answer, name)) for name in names}
        if isinstance(fields := getattr(answer, "__dict__", None), Mapping):
            return {name: self._plain(value) for name, value in fields.items()}
        return repr(answer)


def _is_pointer(value: Any) -> bool:
    # NVML's handles are pointers to opaque structures.
    return isinstance(value, ctypes._Pointer)
