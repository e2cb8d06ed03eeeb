"""The probe of the GPUs.

Acts: through what it imports or is given.
"""

from collections.abc import Callable, Sequence

from sidecar.gpu.api import GpuApi, GpuReading, joined_uuids
from sidecar.health.gpu import (
    Baseline,
    assess_gpu,
    combined,
    first_seen,
    reset_baseline,
    unavailable,
)
from sidecar.health.rules import GpuWatchRules
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import SidecarError, Unavailable
from sidecar.runtime.latest import Latest
from sidecar.runtime.threads import in_daemon_thread
from sidecar.verdict.evidence import Finding


def _unknown() -> None:
    return None


class GpuProbe:
    """Reads the GPUs periodically and reports findings.

    Args:
        nvml: reads the GPUs through NVML.
        rules: may be replaced while it runs.
        clock: for pauses.
        observe: gets one finding of the GPU layer per reading.
        missing: gets the reason why NVML shows no GPU, and whether Triton shows some all the same;
            called once when that starts, and again when Triton shows some later.
        fallback: reads the GPUs through Triton, where NVML shows none.
        own_pids: gives the PIDs of Triton and its descendants, or None if they are unknown.
    """

    def __init__(
        self,
        nvml: GpuApi,
        rules: GpuWatchRules,
        clock: Clock,
        observe: Callable[[Sequence[Finding]], None],
        missing: Callable[[str, bool], None],
        fallback: GpuApi | None = None,
        own_pids: Callable[[], frozenset[int] | None] = _unknown,
    ) -> None:
        self.rules = rules
        self.readings: Latest[tuple[GpuReading, ...]] = Latest(())
        self._nvml = nvml
        self._fallback = fallback
        self._clock = clock
        self._observe = observe
        self._missing = missing
        self._own_pids = own_pids
        self._baseline: Baseline = {}
        self._reported = "", False  # why NVML shows none, and whether Triton has some

    @property
    def uuids(self) -> str:
        """The UUIDs of the last reading, for the service's meta."""
        return joined_uuids(self.readings.value)

    def forget(self) -> None:
        """Start from the current counters, as after a restart of Triton."""
        self._baseline = reset_baseline(self._baseline, self.readings.value)

    async def run(self) -> None:
        """Probe periodically; return at once if the layer is off."""
        while self.rules.enabled:
            self._observe((await self.probe(),))
            await self._clock.sleep(self.rules.interval)

    async def probe(self) -> Finding:
        """Probe once."""
        rules = self.rules.gpu
        try:
            readings = await self._read()
        except SidecarError as error:
            return unavailable(error, rules)
        self._baseline = first_seen(self._baseline, readings)
        self.readings.set(readings)
        own = None
        if rules.foreign_processes:  # it scans all processes of the machine
            own = await in_daemon_thread(self._own_pids, "GPU processes")
        return combined(assess_gpu(readings, self._baseline, rules, own))

    async def _read(self) -> tuple[GpuReading, ...]:
        try:
            readings = await self._nvml.read(self.rules.timeout)
        except Unavailable as error:
            found = await self._read_fallback()
            self._report(str(error), bool(found))
            if found:
                return found
            raise
        if readings:
            self._report("", False)
        else:
            self._report("NVML shows no GPU", bool(await self._read_fallback()))
        return readings

    async def _read_fallback(self) -> tuple[GpuReading, ...]:
        """The fallback's readings; none if it fails, so that NVML's error is reported."""
        if self._fallback is None:
            return ()
        try:
            return await self._fallback.read(self.rules.timeout)
        except SidecarError:
            return ()

    def _report(self, why: str, hidden: bool) -> None:
        """Report missing GPUs once, and again when Triton turns out to have some."""
        reported, was_hidden = self._reported
        if why and (not reported or (hidden and not was_hidden)):
            self._missing(why, hidden)
        self._reported = why, bool(why) and (hidden or was_hidden)
