"""The loop that looks at the GPUs and hands on what it finds."""

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
    """Looks at the GPUs again and again.

    Args:
        nvml: NVML.
        rules: may be replaced while it runs.
        clock: tells how long a pause is.
        observe: given one finding of the GPU layer each time.
        missing: told why NVML shows no GPU, once each time that it begins to be so, and whether
            Triton has some all the same; once more when that turns out later.
        fallback: Triton, asked where NVML shows none.
        own_pids: Triton's process and its descendants now, or None if they are not known.
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
        """The UUIDs as of now, for the service's meta."""
        return joined_uuids(self.readings.value)

    def forget(self) -> None:
        """Hold nothing against the GPUs that happened until now, as after a restart of Triton."""
        self._baseline = reset_baseline(self._baseline, self.readings.value)

    async def run(self) -> None:
        """Look, for ever; return at once if the layer is off."""
        while self.rules.enabled:
            self._observe((await self.look(),))
            await self._clock.sleep(self.rules.interval)

    async def look(self) -> Finding:
        """Look once."""
        rules = self.rules.gpu
        try:
            readings = await self._read()
        except SidecarError as error:
            return unavailable(error, rules)
        self._baseline = first_seen(self._baseline, readings)
        self.readings.set(readings)
        own = None
        if rules.foreign_processes:  # it looks through all processes of the machine
            own = await in_daemon_thread(self._own_pids, "GPU processes")
        return combined(assess_gpu(readings, self._baseline, rules, own))

    async def _read(self) -> tuple[GpuReading, ...]:
        try:
            readings = await self._nvml.read(self.rules.timeout)
        except Unavailable as error:
            found = await self._instead()
            self._report(str(error), bool(found))
            if found:
                return found
            raise
        if readings:
            self._report("", False)
        else:
            self._report("NVML shows no GPU", bool(await self._instead()))
        return readings

    async def _instead(self) -> tuple[GpuReading, ...]:
        """What the fallback says; one that fails says nothing, and NVML's error stands."""
        if self._fallback is None:
            return ()
        try:
            return await self._fallback.read(self.rules.timeout)
        except SidecarError:
            return ()

    def _report(self, why: str, hidden: bool) -> None:
        """Say that GPUs are missing, once; and once more when it turns out that Triton has some."""
        reported, was_hidden = self._reported
        if why and (not reported or (hidden and not was_hidden)):
            self._missing(why, hidden)
        self._reported = why, bool(why) and (hidden or was_hidden)
