"""`[gpu]`: how GPUs are read, and what counts against them."""

import re
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from sidecar.health.gpu import HARMLESS_XIDS, Floor, GpuRules
from sidecar.health.rules import GpuWatchRules
from sidecar.settings.values import Duration, Table, Whole, matching

_UNITS: dict[str, int] = (
    {"B": 1}
    | {f"{prefix}B": 10 ** (3 * power) for power, prefix in enumerate("kMGT", start=1)}
    | {f"{prefix}iB": 2 ** (10 * power) for power, prefix in enumerate("KMGT", start=1)}
)
_MOST = 2**20 * _UNITS["TiB"]


def parse_bytes(value: object) -> int:
    """Bytes from a whole number, or from text such as `512MiB`, `2GiB`, `1.5GB`.

    Raises:
        ValueError: it is neither, or absurdly large.
    """
    size: int | None = None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        size = value
    elif isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", value)
        if match and match[2] in _UNITS:
            size = round(Decimal(match[1]) * _UNITS[match[2]])
    if size is None or size > _MOST:
        raise ValueError('expected a size such as "512MiB" or "2GiB", in B, kB to TB or KiB to TiB')
    return size


def parse_floor(value: object) -> Floor:
    """A floor from a size, or from a percentage such as `5%`.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, Floor):
        return value
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)):
        if float(match[1]) <= 100:
            return Floor(float(match[1]), percent=True)
        raise ValueError("expected at most 100%")
    try:
        return Floor(parse_bytes(value))
    except ValueError:
        raise ValueError(
            'expected a size such as "2GiB", in B, kB to TB or KiB to TiB, or a percentage such as'
            ' "5%"'
        ) from None


def _device(value: object) -> object:
    """Accept an index that is written as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


MemoryFloor = Annotated[Floor, BeforeValidator(parse_floor), PlainSerializer(str, return_type=str)]
# An NVML index, or (the beginning of) the UUID of a GPU or a MIG instance.
Device = Annotated[
    str,
    BeforeValidator(_device),
    matching(
        r"[0-9]{1,4}|GPU-[0-9a-fA-F-]+|MIG-[0-9a-zA-Z/-]+",
        'the index of a GPU, or (the beginning of) a UUID such as "GPU-8932f937"',
    ),
]
XidNumber = Annotated[Whole, Field(ge=1, le=65535)]


class GpuSettings(Table):
    """How GPUs are read, and what counts against them."""

    # auto: a missing GPU or driver is ignored. required: it is critical.
    enabled: Literal["auto", "off", "required"] = "auto"
    # Between two readings.
    interval: Duration = 5.0
    # Of one reading.
    timeout: Duration = 3.0
    # By default those of CUDA_VISIBLE_DEVICES or NVIDIA_VISIBLE_DEVICES, or else all.
    devices: tuple[Device, ...] = ()
    # Free memory below which a GPU is a warning, or critical. No floors by default, because
    # inference servers allocate all memory in advance.
    memory_warning: MemoryFloor | None = None
    memory_failure: MemoryFloor | None = None
    # Xids to ignore, in addition to those that NVIDIA's catalogue considers harmless to the GPU.
    xid_ignore: tuple[XidNumber, ...] = ()
    # Xids that are critical although they would be ignored by default.
    xid_critical: tuple[XidNumber, ...] = ()
    # Degrees Celsius below the temperature at which the GPU slows down; closer is a warning.
    temperature_margin: Whole = Field(default=3, ge=0, le=50)
    # Processes on a GPU that are neither Triton nor its descendants.
    foreign_processes: Literal["ignore", "warn"] = "ignore"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if both := sorted(set(self.xid_ignore) & set(self.xid_critical)):
            raise ValueError(f"xid_ignore and xid_critical: expected {both[0]} in one of them")
        low, out = self.memory_warning, self.memory_failure
        if low and out and low.percent == out.percent and low.amount < out.amount:
            raise ValueError(
                f"memory_warning: expected at least memory_failure, which is {out}, found {low}"
            )
        return self

    @property
    def watch(self) -> GpuWatchRules:
        """The rules for `GpuProbe`."""
        return GpuWatchRules(self.enabled != "off", self.interval, self.timeout, self.rules)

    @property
    def rules(self) -> GpuRules:
        """The rules for `assess_gpu`."""
        return GpuRules(
            memory_warning=self.memory_warning,
            memory_failure=self.memory_failure,
            ignored_xids=(HARMLESS_XIDS | set(self.xid_ignore)) - set(self.xid_critical),
            temperature_margin=self.temperature_margin,
            foreign_processes=self.foreign_processes == "warn",
            required=self.enabled == "required",
        )
