import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from sidecar.gpu.api import GpuApi, GpuProcess, GpuReading, Xid
from sidecar.health.probes.gpu_probe import GpuProbe
from sidecar.runtime.errors import DeadlineExceeded, Rejected, SidecarError, Unavailable
from sidecar.settings.tables.gpu import GpuSettings
from sidecar.verdict.evidence import Finding, Reason
from tests.support.virtual_clock import VirtualClock

R = Reason
GPU = GpuReading("GPU-a", 0, ecc=0, xids=())
FAULTY = replace(GPU, xids=(Xid(79, 1),))
Result = tuple[GpuReading, ...] | SidecarError


class FakeGpu:
    """Returns one result after the other; the last one again and again."""

    def __init__(self, *results: Result) -> None:
        self._results = list(results)
        self.asked = 0

    async def read(self, timeout: float) -> tuple[GpuReading, ...]:
        self.asked += 1
        result = self._results.pop(0) if len(self._results) > 1 else self._results[0]
        if isinstance(result, SidecarError):
            raise result
        return result


class Scene:
    def __init__(
        self, *results: Result, fallback: GpuApi | None = None, **settings: object
    ) -> None:
        self.clock = VirtualClock()
        self.gpu = FakeGpu(*results)
        self.found: list[Finding] = []
        self.missing: list[str] = []
        self.hidden: list[bool] = []
        self.pids = 0
        self.watch = GpuProbe(
            self.gpu,
            GpuSettings.model_validate(settings).watch,
            self.clock,
            self._observe,
            self._miss,
            fallback,
            self._own_pids,
        )

    @property
    def reasons(self) -> list[Reason]:
        return [finding.reason for finding in self.found]

    def _observe(self, findings: Sequence[Finding]) -> None:
        [finding] = findings
        self.found.append(finding)

    def _miss(self, why: str, hidden: bool) -> None:
        self.missing.append(why)
        self.hidden.append(hidden)

    def _own_pids(self) -> frozenset[int]:
        self.pids += 1
        return frozenset({1})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.watch.run())
        await self.clock.advance(0)
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_it_reads_at_once_and_then_at_each_interval() -> None:
    scene = Scene((GPU,), interval=5)
    async with scene.running():
        assert scene.reasons == [R.OK]
        await scene.clock.advance(4.9)
        assert scene.gpu.asked == 1
        await scene.clock.advance(10)
        assert scene.reasons == [R.OK] * 3
    assert scene.watch.uuids == "GPU-a"
    assert scene.watch.readings.value == (GPU,)


async def test_a_disabled_layer_reads_nothing() -> None:
    scene = Scene((GPU,), enabled="off")
    await scene.watch.run()
    assert not scene.gpu.asked
    assert not scene.found


async def test_missing_nvml_is_reported_once_per_outage() -> None:
    gone = Unavailable("no driver")
    scene = Scene(gone, gone, (GPU,), gone, gone, interval=1)
    async with scene.running():
        await scene.clock.advance(4)
    assert scene.missing == ["no driver", "no driver"]
    unknown = R.GPU_UNAVAILABLE
    assert scene.reasons == [unknown, unknown, R.OK, unknown, unknown]


async def test_a_missing_gpu_is_reported_too() -> None:
    scene = Scene((), interval=1)
    async with scene.running():
        await scene.clock.advance(3)
    assert scene.missing == ["NVML shows no GPU"]
    assert set(scene.reasons) == {R.GPU_UNAVAILABLE}


async def test_if_a_gpu_is_required_a_missing_one_is_critical_and_a_late_answer_is_not() -> None:
    scene = Scene(Unavailable("no driver"), DeadlineExceeded("late"), enabled="required")
    assert (await scene.watch.probe()).reason is R.GPU_LOST
    assert (await scene.watch.probe()).reason is R.GPU_UNAVAILABLE


async def test_without_nvml_the_metrics_of_triton_are_read() -> None:
    low = GpuReading("GPU-a", source="triton", memory_total=100, memory_free=1)
    scene = Scene(Unavailable("no driver"), fallback=FakeGpu((low,)), memory_warning="5%")
    assert (await scene.watch.probe()).reason is R.GPU_MEMORY_LOW
    assert scene.missing == ["no driver"]
    assert scene.watch.uuids == "GPU-a"


async def test_with_nvml_the_metrics_of_triton_are_not_read() -> None:
    fallback = FakeGpu(())
    await Scene((GPU,), fallback=fallback).watch.probe()
    assert not fallback.asked


async def test_a_failing_fallback_keeps_the_error_of_nvml() -> None:
    for fallback in (
        FakeGpu(()),
        FakeGpu(Rejected("no metrics")),
        FakeGpu(DeadlineExceeded("late")),
    ):
        finding = await Scene(Unavailable("no driver"), fallback=fallback).watch.probe()
        assert (finding.reason, finding.detail) == (R.GPU_UNAVAILABLE, "no driver")


async def test_an_xid_counts_until_it_is_forgotten() -> None:
    scene = Scene((GPU,), (FAULTY,))
    found = [(await scene.watch.probe()).reason for _ in range(3)]
    assert found == [R.OK, R.GPU_XID, R.GPU_XID]
    scene.watch.forget()
    assert (await scene.watch.probe()).reason is R.OK


async def test_new_settings_apply_from_the_next_read() -> None:
    scene = Scene((FAULTY,))
    assert (await scene.watch.probe()).reason is R.GPU_XID
    scene.watch.rules = GpuSettings(xid_ignore=(79,)).watch
    assert (await scene.watch.probe()).reason is R.OK


async def test_processes_are_scanned_only_if_configured() -> None:
    shared = replace(GPU, processes=(GpuProcess(1), GpuProcess(2)))
    scene = Scene((shared,))
    assert (await scene.watch.probe()).reason is R.OK
    assert not scene.pids
    scene.watch.rules = GpuSettings(foreign_processes="warn").watch
    assert (await scene.watch.probe()).reason is R.GPU_FOREIGN_PROCESS


@pytest.mark.parametrize("nothing", [Unavailable("no driver"), ()])
async def test_gpus_that_only_triton_shows_are_reported(nothing: Result) -> None:
    """As behind PrivateDevices=, or in a container without them."""
    triton = FakeGpu(Unavailable("not there yet"), (GPU,))
    scene = Scene(nothing, fallback=triton)
    async with scene.running():
        assert scene.hidden == [False]
        await scene.clock.advance(60)
        assert scene.hidden == [False, True]
