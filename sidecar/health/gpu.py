"""The assessment of GPUs: from readings to findings. Pure.

A value that NVML does not report is never held against a GPU.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sidecar.gpu.api import GpuReading
from sidecar.runtime.errors import DeadlineExceeded, SidecarError
from sidecar.verdict.evidence import SERVER, Finding, Layer, Reason

# Xids whose action in the catalogue of NVIDIA's "Xid Errors" (docs.nvidia.com/deploy/xid-errors,
# "Analyzing Xid Errors with the Xid Catalog") is RESTART_APP: the GPU is as good as before. The
# application's work is lost; if the application was Triton, the canaries show it. 94 is a memory
# error contained to one application. NVIDIA's k8s-device-plugin ignores 45 and 109 as well
# (internal/rm/health.go), though the catalogue recommends further checks there.
APPLICATION_XIDS = frozenset(
    {
        *(8, 11, 13, 25, 31, 32, 39, 40, 41, 45, 60, *range(68, 73), 75, 76, 77, 80),
        *(*range(82, 87), 88, 89, 94, *range(96, 106), 109, *range(126, 136), 139),
    }
)
# Xids whose action is IGNORE, and Xids that are not errors: 63 (row remapping or page retirement
# recorded) and 160 (memory marked for repair) are successes ("NVIDIA GPU Memory Error Management",
# user visible statistics), and NVML reports the state that they announce. 92 are corrected errors.
# 154 reports what another Xid, which counts itself, has changed.
NOTICE_XIDS = frozenset(
    {
        *(14, 37, 38, 43, 44, 63, 66, 67, 92, 93, 106, 107, 108),
        *(121, 137, 141, 154, 160),
    }
)
HARMLESS_XIDS = APPLICATION_XIDS | NOTICE_XIDS

# Reasons for low clocks that mean trouble; idle, power cap and application clocks are intended.
# Source: NVML API Reference Guide, nvmlClocksEventReasons.
_THROTTLING = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
_LISTED = 5  # processes named in a finding


@dataclass(frozen=True, slots=True)
class Floor:
    """A minimum of free memory: in bytes, or as a percentage of a GPU's memory."""

    amount: float
    percent: bool = False

    def of(self, total: int) -> float:
        """The floor in bytes, for a GPU with so many."""
        return total * self.amount / 100 if self.percent else self.amount

    def __str__(self) -> str:
        return f"{self.amount:g}%" if self.percent else f"{self.amount:.0f}B"


@dataclass(frozen=True, slots=True)
class GpuRules:
    """What counts against a GPU.

    There is no floor by default, because inference servers allocate all memory in advance. Xids
    other than `ignored_xids` are critical. `temperature_margin` is in degrees Celsius. With
    `required`, having no GPU is critical.
    """

    memory_warning: Floor | None = None
    memory_failure: Floor | None = None
    ignored_xids: frozenset[int] = HARMLESS_XIDS
    temperature_margin: int = 3
    foreign_processes: bool = False
    required: bool = False


Baseline = Mapping[str, GpuReading]  # by UUID


def first_seen(baseline: Baseline, readings: Iterable[GpuReading]) -> Baseline:
    """The baseline with the GPUs that are not in it yet.

    A counter that a GPU did not report at first starts from now. Xids are counted from the start of
    the sidecar, so every reported one is new.
    """
    known = dict(baseline)
    for reading in readings:
        if not reading.uuid or reading.lost:
            continue
        first = known.get(reading.uuid)
        if first is None or first.source != "nvml":
            known[reading.uuid] = replace(reading, xids=None)
        elif first.ecc is None:
            known[reading.uuid] = replace(first, ecc=reading.ecc)
    return known


def reset_baseline(baseline: Baseline, readings: Iterable[GpuReading]) -> Baseline:
    """The baseline with the current counters: only what is counted from now on matters."""
    return dict(baseline) | {gpu.uuid: gpu for gpu in readings if gpu.uuid and not gpu.lost}


def assess_gpu(
    readings: Sequence[GpuReading],
    baseline: Baseline,
    rules: GpuRules,
    own_pids: frozenset[int] | None = None,
) -> tuple[Finding, ...]:
    """The findings against each GPU, worst first; a single OK if there are none.

    Args:
        readings: each GPU's current reading.
        baseline: each GPU's first reading; a GPU that is in it but has no reading now is lost.
        rules: what counts.
        own_pids: Triton and its descendants, or None if they are unknown.
    """
    found = [finding for gpu in readings for finding in _of_one(gpu, baseline, rules, own_pids)]
    found += _vanished(readings, baseline)
    if found:
        return tuple(sorted(found, key=lambda finding: -finding.level))
    if not readings:
        return (unavailable("no GPU found", rules),)
    count = f"{len(readings)} GPUs" if len(readings) > 1 else "1 GPU"
    return (_finding(Reason.OK, count),)


def memory_shortage(readings: Sequence[GpuReading], floor: Floor) -> str:
    """Why the GPUs do not have so much free memory each; empty if they do."""
    if not readings or any(gpu.memory_free is None for gpu in readings):
        return f"{floor} of free GPU memory is required, but how much is free is unknown"
    # Without the amount, which changes with each reading.
    short = ", ".join(gpu.label for gpu in readings if _memory(gpu, floor))
    return f"less than {floor} of memory is free on {short}" if short else ""


def unavailable(error: SidecarError | str, rules: GpuRules) -> Finding:
    """The finding without any reading.

    A driver that does not answer in time is missing evidence, even where a GPU is required.
    """
    missing = rules.required and not isinstance(error, DeadlineExceeded)
    return _finding(Reason.GPU_LOST if missing else Reason.GPU_UNAVAILABLE, str(error))


def combined(findings: Sequence[Finding]) -> Finding:
    """One finding for the layer: the worst, which also names the other reasons.

    The verdict counts a layer's findings in a row, so a probe must report one at a time.
    """
    worst = max(findings, key=lambda finding: finding.level)
    others = dict.fromkeys(f.reason for f in findings if f.reason is not worst.reason)
    if not others:
        return worst
    return replace(worst, detail=f"{worst.detail} (also {', '.join(others)})")


def _finding(reason: Reason, detail: str) -> Finding:
    return Finding(Layer.GPU, SERVER, reason, detail)


def _of_one(
    gpu: GpuReading, baseline: Baseline, rules: GpuRules, own_pids: frozenset[int] | None
) -> Iterator[Finding]:
    first = baseline.get(gpu.uuid)
    checks: tuple[tuple[Reason, str | None], ...] = (
        (Reason.GPU_LOST, gpu.lost),
        (Reason.GPU_XID, _xids(gpu, first, rules.ignored_xids)),
        (Reason.GPU_ECC, _ecc(gpu, first)),
        (Reason.GPU_ROW_REMAP_FAILED, _remap_failed(gpu)),
        (Reason.GPU_MEMORY_EXHAUSTED, low := _memory(gpu, rules.memory_failure)),
        (Reason.GPU_MEMORY_LOW, None if low else _memory(gpu, rules.memory_warning)),
        (Reason.GPU_RETIREMENT_PENDING, _retiring(gpu)),
        (Reason.GPU_HOT, _hot(gpu, rules.temperature_margin)),
        (Reason.GPU_THROTTLED, _throttled(gpu)),
        (Reason.GPU_FOREIGN_PROCESS, _foreign(gpu, own_pids) if rules.foreign_processes else None),
    )
    for reason, detail in checks:
        if detail:
            yield _finding(reason, f"{gpu.label}: {detail}")


def _vanished(readings: Sequence[GpuReading], baseline: Baseline) -> Iterator[Finding]:
    if any(gpu.source != "nvml" for gpu in readings):
        return  # Triton only reports the GPUs that it uses
    there = {gpu.uuid for gpu in readings}
    nameless = {gpu.index for gpu in readings if not gpu.uuid}  # already found to be lost
    for uuid, first in baseline.items():
        if first.source == "nvml" and uuid not in there and first.index not in nameless:
            yield _finding(Reason.GPU_LOST, f"{first.label}: it has disappeared")


def _xids(gpu: GpuReading, first: GpuReading | None, ignored: frozenset[int]) -> str | None:
    before = {xid.number: xid.count for xid in (first and first.xids) or ()}
    new = [
        xid.number
        for xid in gpu.xids or ()
        if xid.number not in ignored and _grown(before.get(xid.number, 0), xid.count)
    ]
    return f"Xid {', '.join(map(str, new))}" if new else None


def _ecc(gpu: GpuReading, first: GpuReading | None) -> str | None:
    if gpu.ecc is None or first is None or first.ecc is None:
        return None
    new = _grown(first.ecc, gpu.ecc)
    return f"{new} uncorrectable memory errors" if new else None


def _grown(before: int, now: int) -> int:
    """The increase; a counter smaller than before started again with a reset of the GPU."""
    return now - before if now >= before else now


def _remap_failed(gpu: GpuReading) -> str | None:
    return "row remapping failed" if gpu.row_remap and gpu.row_remap.failed else None


def _retiring(gpu: GpuReading) -> str | None:
    pending = [
        (gpu.retirement_pending, "page retirement pending"),
        (gpu.row_remap and gpu.row_remap.pending, "row remapping pending"),
    ]
    return ", ".join(text for waits, text in pending if waits) or None


def _memory(gpu: GpuReading, floor: Floor | None) -> str | None:
    if floor is None or gpu.memory_free is None or not gpu.memory_total:
        return None
    if gpu.memory_free >= floor.of(gpu.memory_total):
        return None
    return f"{gpu.memory_free / 2**20:.0f} MiB of memory free, expected at least {floor}"


def _hot(gpu: GpuReading, margin: int) -> str | None:
    left = gpu.thermal_margin
    if left is None and gpu.temperature is not None and gpu.slowdown_temperature is not None:
        left = gpu.slowdown_temperature - gpu.temperature
    return f"{left} °C below slowdown" if left is not None and left <= margin else None


def _throttled(gpu: GpuReading) -> str | None:
    mask = gpu.throttling or 0
    return ", ".join(text for bit, text in _THROTTLING.items() if mask & bit) or None


def _foreign(gpu: GpuReading, own_pids: frozenset[int] | None) -> str | None:
    if own_pids is None:
        return None
    pids = [process.pid for process in gpu.processes or () if process.pid not in own_pids]
    listed = ", ".join(map(str, pids[:_LISTED])) + (", …" if len(pids) > _LISTED else "")
    return f"used by other processes: {listed}" if pids else None
