import asyncio
import contextlib
import gc
import logging
import threading
from typing import Any

import pynvml
import pytest

from sidecar.gpu import client
from sidecar.gpu.api import ALL, GpuProcess, GpuReading, RowRemap, Selection, Xid
from sidecar.gpu.client import Gpu
from sidecar.gpu.nvml import Nvml
from sidecar.gpu.nvml_errors import FAULTS, Absent, Fault, Lost, translated
from sidecar.gpu.recording import Recorder
from sidecar.runtime.errors import DeadlineExceeded, Unavailable
from tests.support.nvml_player import RECORDINGS, Player

GPU_0 = "GPU-4f0c2a8e-6d5b-4c1f-9a77-0d3e5b8c1a20"
GPU_1 = "GPU-b7e91d34-02ac-4f68-8b15-7c6d9e0f3a41"
MIG = "MIG-1f2e3d4c-5b6a-5079-8899-aabbccddeeff"


def rounds(name: str, selection: Selection = ALL) -> list[tuple[GpuReading, ...]]:
    """All readings of a recording, one per round."""
    player = Player.of(name)
    nvml, found = Nvml(selection, player), []
    for _ in range(player.rounds):
        found.append(nvml.read())
        player.turn()
    return found


def test_every_error_that_pynvml_defines_is_mapped_and_no_other() -> None:
    assert set(FAULTS) == {name for name in dir(pynvml) if name.startswith("NVML_ERROR_")}


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_every_error_is_translated_by_its_code(name: str) -> None:
    raised = {Fault.ABSENT: Absent, Fault.LOST: Lost, Fault.DRIVER: Unavailable}[FAULTS[name]]
    error = translated(pynvml, pynvml.NVMLError(getattr(pynvml, name)))
    assert type(error) is raised
    assert str(error)


def test_an_unknown_code_is_not_a_fault_of_the_gpu() -> None:
    assert isinstance(translated(pynvml, pynvml.NVMLError(4711)), Absent)


def test_every_value_of_a_healthy_gpu_is_read() -> None:
    [[reading]] = rounds("a100-healthy")
    assert reading == GpuReading(
        uuid=GPU_0,
        index=0,
        name="NVIDIA A100-SXM4-80GB",
        memory_free=24696061952,
        memory_total=85899345920,
        utilization=0.71,
        ecc=0,
        retirement_pending=None,
        row_remap=RowRemap(0, 0, pending=False, failed=False),
        throttling=0,
        temperature=52,
        slowdown_temperature=89,
        thermal_margin=None,
        processes=(GpuProcess(4242, 60129542144),),
        xids=(),
    )


def test_values_that_a_consumer_card_does_not_support_are_none() -> None:
    [[reading]] = rounds("geforce-without-ecc")
    assert (reading.ecc, reading.retirement_pending, reading.row_remap) == (None, None, None)
    assert reading.xids is None
    assert reading.lost is None
    assert reading.memory_total == 25757220864


def test_with_an_old_driver_the_old_function_names_are_called() -> None:
    [[reading]] = rounds("v100-page-pending")
    assert (reading.throttling, reading.temperature, reading.retirement_pending) == (2, 44, True)
    assert reading.processes == (GpuProcess(4242, 2 * 2**30),)


def test_a_process_of_unknown_memory_is_still_listed() -> None:
    [[_, reading]] = rounds("h100-healthy")
    assert GpuProcess(777, None) in (reading.processes or ())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no-driver", "there is no NVIDIA driver"),
        ("driver-not-loaded", "installed, but not loaded"),
        ("no-permission", "no permission"),
        ("driver-replaced", "was replaced while it was loaded"),
    ],
)
def test_without_a_usable_driver_it_says_why(name: str, text: str) -> None:
    with pytest.raises(Unavailable, match=text):
        rounds(name)


def test_a_driver_that_is_loaded_later_is_found() -> None:
    player = Player.of("driver-not-loaded")
    nvml = Nvml(ALL, player)
    with pytest.raises(Unavailable):
        nvml.read()
    player.turn()
    assert [reading.uuid for reading in nvml.read()] == [GPU_0]
    assert nvml.driver == "535.183.01"


def test_a_lost_gpu_is_reported_until_it_is_back() -> None:
    first, lost, nameless, gone, back = rounds("gpu-lost")
    assert [reading.lost for reading in first] == [None, None]
    assert [(reading.uuid, bool(reading.lost)) for reading in lost] == [
        (GPU_0, False),
        (GPU_1, True),
    ]
    assert [(reading.uuid, reading.index) for reading in nameless] == [(GPU_0, 0), ("", 1)]
    assert "Unknown" in str(nameless[1].lost)
    assert [reading.uuid for reading in gone] == [GPU_0]
    assert [reading.lost for reading in back] == [None, None]


def test_a_session_that_would_prevent_a_reset_is_closed() -> None:
    player = Player.of("reset-required")
    nvml = Nvml(ALL, player)
    nvml.read()
    assert player.calls["nvmlShutdown"] == 0
    player.turn()
    assert [bool(reading.lost) for reading in nvml.read()] == [True]
    assert player.calls["nvmlShutdown"] == player.calls["nvmlInit"] == 1


def test_a_session_with_all_its_gpus_stays_open() -> None:
    player = Player.of("xid-48")
    nvml = Nvml(ALL, player)
    for _ in range(3):
        nvml.read()
    assert (player.calls["nvmlInit"], player.calls["nvmlShutdown"]) == (1, 0)


def test_a_gpu_that_works_again_was_reset_and_its_xids_are_forgotten() -> None:
    player = Player.of("xid-79")
    healthy = dict(player._rounds[0])
    player._rounds.append(healthy)
    nvml = Nvml(ALL, player)
    nvml.read()
    player.turn()
    assert [reading.xids for reading in nvml.read()] == [(Xid(79, 1),)]
    player.turn()
    assert [(reading.lost, reading.xids) for reading in nvml.read()] == [(None, ())]


def test_xids_are_counted_by_gpu() -> None:
    before, after = rounds("xid-48")
    assert [reading.xids for reading in before] == [(), ()]
    assert [reading.xids for reading in after] == [(), (Xid(48, 1),)]


def test_repeated_xids_are_counted() -> None:
    _, [reading] = rounds("xid-13")
    assert reading.xids == (Xid(13, 1), Xid(31, 2))


def test_an_xid_of_a_gpu_that_no_longer_reports_its_uuid_counts() -> None:
    _, [reading] = rounds("xid-79")
    assert reading.lost
    assert reading.xids == (Xid(79, 1),)


def test_a_mig_instance_has_separate_memory_and_xids() -> None:
    first, other, own = rounds("mig", Selection((MIG,), strict=True))
    [reading] = first
    assert (reading.uuid, reading.index, reading.memory_total) == (MIG, None, 42278584320)
    assert (reading.ecc, reading.slowdown_temperature) == (0, 89)  # the whole GPU's
    assert [r.xids for r in other] == [()]
    assert [r.xids for r in own] == [(Xid(94, 1),)]


def test_a_gpu_outside_the_container_does_not_count() -> None:
    [readings] = rounds("container")
    assert [reading.uuid for reading in readings] == [GPU_1]


@pytest.mark.parametrize("name", ["7", "GPU-00000000", GPU_1])
def test_a_selected_gpu_that_is_missing_is_lost(name: str) -> None:
    [readings] = rounds("a100-healthy", Selection(("0", name), strict=True))
    assert [bool(reading.lost) for reading in readings] == [False, True]


def test_a_missing_gpu_that_only_the_environment_selects_is_not_lost() -> None:
    [readings] = rounds("a100-healthy", Selection(("0", "7")))
    assert [reading.uuid for reading in readings] == [GPU_0]


def test_a_recording_of_a_recording_replays_identically() -> None:
    for path in sorted(RECORDINGS.glob("*.json")):
        player = Player.of(path.stem)
        recorder = Recorder(player)
        nvml = Nvml(ALL, recorder)
        first = [_read(nvml, player, recorder.end_round) for _ in range(player.rounds)]
        again = Player(recorder.rounds)
        replayed = Nvml(ALL, again)
        assert first == [_read(replayed, again, lambda: None) for _ in range(player.rounds)], path


def _read(nvml: Nvml, player: Player, then: Any) -> object:
    try:
        return nvml.read()
    except Unavailable as error:
        return str(error)
    finally:
        then()
        player.turn()


class Hanging(Player):
    """A driver that hangs in the count of GPUs until it is released."""

    def __init__(self) -> None:
        super().__init__(Player.of("a100-healthy")._rounds)
        self.released = threading.Event()

    def _play(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name == "nvmlDeviceGetCount":
            self.released.wait()
        return super()._play(name, arguments)


async def test_the_client_reads_in_a_separate_thread() -> None:
    async with Gpu(module=Player.of("h100-healthy")) as gpu:
        assert [reading.uuid for reading in await gpu.read(30)] == [GPU_0, GPU_1]
        assert gpu.driver == "560.35.03"


async def test_the_client_closes_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_CLOSING", 60.0)
    player = Player.of("a100-healthy")
    async with Gpu(module=player) as gpu:
        await gpu.read(30)
    assert player.calls["nvmlShutdown"] == player.calls["nvmlEventSetFree"] == 1


async def test_an_unused_client_does_not_call_nvml() -> None:
    player = Player.of("a100-healthy")
    async with Gpu(module=player):
        pass
    assert not player.calls


def _nvml_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "nvml"}


async def test_a_hanging_driver_is_called_once_and_does_not_block() -> None:
    driver = Hanging()
    ending = _nvml_threads()  # of clients of other tests, which ended just now
    async with Gpu(module=driver) as gpu:
        for _ in range(3):
            with pytest.raises(DeadlineExceeded, match="NVML does not answer"):
                await gpu.read(0.02)
        assert len(_nvml_threads() - ending) == 1
        driver.released.set()
        assert [reading.uuid for reading in await gpu.read(30)] == [GPU_0]
        assert driver.calls["nvmlDeviceGetMemoryInfo"] == 1


async def test_a_client_whose_driver_hangs_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_CLOSING", 0.02)
    driver = Hanging()
    async with Gpu(module=driver) as gpu:
        with pytest.raises(DeadlineExceeded):
            await gpu.read(0.02)
    driver.released.set()


async def test_an_error_that_arrives_after_the_deadline_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gc.collect()  # left by earlier tests
    caplog.clear()
    driver = Hanging()
    driver._rounds[0]["nvmlDeviceGetCount()"] = {"error": "NVML_ERROR_UNKNOWN"}
    async with Gpu(module=driver) as gpu:
        with contextlib.suppress(DeadlineExceeded):
            await gpu.read(0.02)
        driver.released.set()
    await asyncio.sleep(0)
    del gpu
    gc.collect()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
