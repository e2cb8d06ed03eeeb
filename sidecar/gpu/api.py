"""Readings of GPUs as values, `GpuApi`, and which GPUs count. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

META_LIMIT = 512  # characters of a value in the meta of a Consul service


@dataclass(frozen=True, slots=True)
class RowRemap:
    """Rows of GPU memory remapped to spare rows, and whether a remapping is pending or has failed.

    A `pending` one needs a reset of the GPU; after a `failed` one the GPU has to be replaced.
    """

    correctable: int
    uncorrectable: int
    pending: bool
    failed: bool


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that computes on a GPU; `memory` is its bytes there, None if unknown."""

    pid: int
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class Xid:
    """How often the driver has reported an error of this number since the sidecar started."""

    number: int
    count: int


@dataclass(frozen=True, slots=True)
class GpuReading:
    """A reading of one GPU; a field that the GPU, its driver or the source does not report is None.

    `lost` says why the GPU can no longer be read; then all other fields are None. `uuid` is empty
    if unknown. Memory is in bytes, temperatures in degrees Celsius, `utilization` from 0 to 1.
    `ecc` counts uncorrectable memory errors since boot. `throttling` is NVML's bit mask of the
    reasons for low clocks. `thermal_margin` is the distance to the nearest temperature at which the
    GPU slows down.
    """

    uuid: str
    index: int | None = None
    name: str = ""
    source: Literal["nvml", "triton"] = "nvml"
    lost: str | None = None
    memory_free: int | None = None
    memory_total: int | None = None
    utilization: float | None = None
    ecc: int | None = None
    retirement_pending: bool | None = None
    row_remap: RowRemap | None = None
    throttling: int | None = None
    temperature: int | None = None
    slowdown_temperature: int | None = None
    thermal_margin: int | None = None
    processes: tuple[GpuProcess, ...] | None = None
    xids: tuple[Xid, ...] | None = None

    @property
    def label(self) -> str:
        """Its name in messages: index and UUID."""
        known = (f"GPU {self.index}" if self.index is not None else "GPU", self.uuid)
        return " ".join(part for part in known if part)


class GpuApi(Protocol):
    """A source of readings of the GPUs that this Triton uses."""

    async def read(self, timeout: float) -> tuple[GpuReading, ...]:
        """A reading of each GPU.

        Args:
            timeout: seconds.

        Raises:
            DeadlineExceeded: there is no answer in time.
            Unavailable: there is no driver, or it cannot be used.
            Rejected: the answer cannot be read.
        """


@dataclass(frozen=True, slots=True)
class Selection:
    """Which GPUs count: by index, UUID or the beginning of a UUID; all if `names` is None.

    With `strict` an operator named them, and a missing one is a fault.
    """

    names: tuple[str, ...] | None = None
    strict: bool = False

    def includes(self, index: int, uuid: str) -> bool:
        """Whether a whole GPU counts; its UUID may be unknown."""
        if self.names is None:
            return True
        return any(name == str(index) or _names(name, uuid) for name in self.names)

    def missing(self, found: Sequence[tuple[int, str]]) -> tuple[str, ...]:
        """The names that match none of the found GPUs, each given as index and UUID."""
        return tuple(
            name
            for name in self.names or ()
            if not any(Selection((name,)).includes(*gpu) for gpu in found)
        )


ALL = Selection()


def select(devices: Sequence[str], environment: Mapping[str, str]) -> Selection:
    """Which GPUs count, from `gpu.devices`, or else from Triton's environment.

    `CUDA_VISIBLE_DEVICES` applies if set, up to its first entry that names no GPU, as in CUDA.
    Its indices are taken in NVML's order, which is CUDA's order if `CUDA_DEVICE_ORDER` is
    `PCI_BUS_ID` or all GPUs are the same model. Only UUIDs count in `NVIDIA_VISIBLE_DEVICES`: the
    container runtime has already applied its indices, and NVML numbers the GPUs inside from 0.

    Sources: CUDA Programming Guide, "CUDA Environment Variables"; NVIDIA Container Toolkit,
    "GPU Enumeration".
    """
    if devices:
        return Selection(tuple(devices), strict=True)
    if (cuda := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return Selection(_until_invalid(cuda))
    shown = [name.strip() for name in environment.get("NVIDIA_VISIBLE_DEVICES", "").split(",")]
    if shown == ["none"]:
        return Selection(())
    if all(name.startswith(("GPU-", "MIG-")) for name in shown):
        return Selection(tuple(shown))
    return ALL


def joined_uuids(readings: Iterable[GpuReading], limit: int = META_LIMIT) -> str:
    """The UUIDs with commas between them, for a service's meta.

    UUIDs that do not fit into `limit` characters are left out; a last entry such as `+4` counts
    them.
    """
    uuids = [reading.uuid for reading in readings if reading.uuid]
    for kept in range(len(uuids), -1, -1):
        rest = [f"+{len(uuids) - kept}"] if kept < len(uuids) else []
        if len(joined := ",".join(uuids[:kept] + rest)) <= limit:
            return joined
    return ""


def _names(name: str, uuid: str) -> bool:
    return bool(uuid) and name.startswith(("GPU-", "MIG-")) and uuid.startswith(name)


def _until_invalid(value: str) -> tuple[str, ...]:
    names: list[str] = []
    for name in (part.strip() for part in value.split(",")):
        if not name.isdecimal() and not name.startswith(("GPU-", "MIG-")):
            break
        names.append(name)
    return tuple(names)
