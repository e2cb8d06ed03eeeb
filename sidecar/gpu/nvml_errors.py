"""Translates NVML's errors. The map covers every code that pynvml defines."""

from enum import Enum, auto
from typing import Any

from sidecar.runtime.errors import Unavailable


class Fault(Enum):
    """What a call's error says about the GPU."""

    ABSENT = auto()  # this value is not available; others may be
    LOST = auto()  # this GPU does not work
    DRIVER = auto()  # NVML or the driver does not work; nothing is known about the GPU


FAULTS = {
    "NVML_ERROR_UNINITIALIZED": Fault.DRIVER,
    "NVML_ERROR_INVALID_ARGUMENT": Fault.ABSENT,
    "NVML_ERROR_NOT_SUPPORTED": Fault.ABSENT,
    "NVML_ERROR_NO_PERMISSION": Fault.ABSENT,
    "NVML_ERROR_ALREADY_INITIALIZED": Fault.ABSENT,
    "NVML_ERROR_NOT_FOUND": Fault.ABSENT,
    "NVML_ERROR_INSUFFICIENT_SIZE": Fault.ABSENT,
    "NVML_ERROR_INSUFFICIENT_POWER": Fault.LOST,
    "NVML_ERROR_DRIVER_NOT_LOADED": Fault.DRIVER,
    "NVML_ERROR_TIMEOUT": Fault.ABSENT,
    "NVML_ERROR_IRQ_ISSUE": Fault.LOST,
    "NVML_ERROR_LIBRARY_NOT_FOUND": Fault.DRIVER,
    "NVML_ERROR_FUNCTION_NOT_FOUND": Fault.ABSENT,
    "NVML_ERROR_CORRUPTED_INFOROM": Fault.ABSENT,
    "NVML_ERROR_GPU_IS_LOST": Fault.LOST,
    "NVML_ERROR_RESET_REQUIRED": Fault.LOST,
    "NVML_ERROR_OPERATING_SYSTEM": Fault.ABSENT,
    # The driver was upgraded under running programs, which keep running.
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": Fault.DRIVER,
    "NVML_ERROR_IN_USE": Fault.ABSENT,
    "NVML_ERROR_MEMORY": Fault.ABSENT,
    "NVML_ERROR_NO_DATA": Fault.ABSENT,
    "NVML_ERROR_VGPU_ECC_NOT_SUPPORTED": Fault.ABSENT,
    "NVML_ERROR_INSUFFICIENT_RESOURCES": Fault.ABSENT,
    "NVML_ERROR_FREQ_NOT_SUPPORTED": Fault.ABSENT,
    "NVML_ERROR_ARGUMENT_VERSION_MISMATCH": Fault.ABSENT,
    "NVML_ERROR_DEPRECATED": Fault.ABSENT,
    "NVML_ERROR_NOT_READY": Fault.ABSENT,
    "NVML_ERROR_GPU_NOT_FOUND": Fault.DRIVER,
    "NVML_ERROR_INVALID_STATE": Fault.ABSENT,
    "NVML_ERROR_RESET_TYPE_NOT_SUPPORTED": Fault.ABSENT,
    # Some calls return this for a value that the GPU does not support.
    "NVML_ERROR_UNKNOWN": Fault.ABSENT,
}

_HINTS = {
    "NVML_ERROR_LIBRARY_NOT_FOUND": "there is no NVIDIA driver (libnvidia-ml.so.1 is missing)",
    "NVML_ERROR_DRIVER_NOT_LOADED": "the NVIDIA driver is installed, but not loaded",
    "NVML_ERROR_GPU_NOT_FOUND": "the NVIDIA driver knows no GPU",
    "NVML_ERROR_NO_PERMISSION": "no permission to use the NVIDIA driver (/dev/nvidiactl)",
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": "the NVIDIA driver was replaced while it was loaded",
}


class Absent(Exception):
    """A call has no answer."""

    def __init__(self, error: str, text: str) -> None:
        super().__init__(text)
        self.error = error  # NVML's name of it


class Lost(Exception):
    """The GPU does not work."""


def translated(module: Any, error: Any) -> Exception:
    """The exception to raise instead of an `NVMLError` of `module`, which is pynvml.

    `Unavailable`, `Lost` or `Absent`. A code that is not in the map is `Absent`: an unknown error
    says nothing about the GPU.
    """
    names = (name for name in FAULTS if getattr(module, name, None) == error.value)
    name = next(names, f"NVML error {error.value}")
    text = _HINTS.get(name, f"{error} ({name})")
    match FAULTS.get(name, Fault.ABSENT):
        case Fault.DRIVER:
            return Unavailable(f"NVML: {text}")
        case Fault.LOST:
            return Lost(text)
        case Fault.ABSENT:
            return Absent(name, text)
