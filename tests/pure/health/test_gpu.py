from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.gpu.api import ALL, GpuProcess, GpuReading, RowRemap, Xid
from sidecar.gpu.nvml import Nvml
from sidecar.health.gpu import (
    HARMLESS_XIDS,
    Baseline,
    Floor,
    GpuRules,
    assess_gpu,
    combined,
    first_seen,
    reset_baseline,
    unavailable,
)
from sidecar.runtime.errors import DeadlineExceeded, Unavailable
from sidecar.verdict.evidence import SERVER, Layer, Level, Reason
from tests.support.nvml_player import Player

R = Reason
RULES = GpuRules()
GPU = GpuReading("GPU-a", 0, memory_total=1000, memory_free=100, ecc=0, xids=())


def reasons(
    *readings: GpuReading,
    baseline: Sequence[GpuReading] = (),
    rules: GpuRules = RULES,
    own_pids: frozenset[int] | None = None,
) -> list[Reason]:
    known = reset_baseline({}, baseline)
    return [finding.reason for finding in assess_gpu(readings, known, rules, own_pids)]


@pytest.mark.parametrize(
    ("recording", "expected"),
    [
        ("a100-healthy", [[R.OK]]),
        ("h100-healthy", [[R.OK]]),
        ("geforce-without-ecc", [[R.OK]]),
        ("container", [[R.OK]]),
        ("v100-page-pending", [[R.GPU_RETIREMENT_PENDING]]),
        ("row-remap-failed", [[R.GPU_ROW_REMAP_FAILED]]),
        ("throttled", [[R.GPU_HOT, R.GPU_THROTTLED]]),
        (
            "ecc-errors",
            [[R.OK], [R.GPU_ECC, R.GPU_RETIREMENT_PENDING], [R.OK], [R.GPU_ECC]],
        ),
        ("gpu-lost", [[R.OK], [R.GPU_LOST], [R.GPU_LOST], [R.GPU_LOST], [R.OK]]),
        ("reset-required", [[R.OK], [R.GPU_LOST]]),
        ("xid-79", [[R.OK], [R.GPU_LOST, R.GPU_XID]]),
        ("xid-48", [[R.OK], [R.GPU_XID]]),
        ("xid-13", [[R.OK], [R.OK]]),
    ],
)
def test_findings_from_recorded_answers(recording: str, expected: list[list[Reason]]) -> None:
    player = Player.of(recording)
    nvml = Nvml(ALL, player)
    baseline: Baseline = {}
    found = []
    for _ in range(player.rounds):
        readings = nvml.read()
        baseline = first_seen(baseline, readings)
        found.append([finding.reason for finding in assess_gpu(readings, baseline, RULES)])
        player.turn()
    assert found == expected


def test_every_finding_is_about_the_server_and_of_the_gpu_layer() -> None:
    findings = assess_gpu([replace(GPU, lost="gone"), GPU], {}, RULES)
    assert {(finding.layer, finding.subject) for finding in findings} == {(Layer.GPU, SERVER)}


@given(st.builds(GpuReading, st.just("GPU-a"), st.integers(0, 8)))
def test_a_gpu_that_reports_nothing_is_ok(reading: GpuReading) -> None:
    absent: dict[str, Any] = dict.fromkeys(f.name for f in fields(GpuReading) if f.default is None)
    silent = replace(reading, **absent)
    strict = GpuRules(Floor(1e12), Floor(1e12), frozenset(), 50, foreign_processes=True)
    assert reasons(silent, rules=strict, own_pids=frozenset()) == [R.OK]


def test_a_missing_gpu_does_not_count_unless_one_is_required() -> None:
    assert reasons() == [R.GPU_UNAVAILABLE]
    assert reasons(rules=GpuRules(required=True)) == [R.GPU_LOST]
    assert R.GPU_UNAVAILABLE.level is Level.UNKNOWN


@pytest.mark.parametrize(
    ("error", "required", "reason"),
    [
        (Unavailable("no driver"), False, R.GPU_UNAVAILABLE),
        (Unavailable("no driver"), True, R.GPU_LOST),
        (DeadlineExceeded("late"), False, R.GPU_UNAVAILABLE),
        (DeadlineExceeded("late"), True, R.GPU_UNAVAILABLE),
    ],
)
def test_missing_evidence_does_not_count_against_a_gpu(
    error: Unavailable, required: bool, reason: Reason
) -> None:
    finding = unavailable(error, GpuRules(required=required))
    assert (finding.reason, finding.detail) == (reason, str(error))


@pytest.mark.parametrize(
    ("free", "warning", "failure", "expected"),
    [
        (100, None, None, R.OK),
        (100, Floor(101), None, R.GPU_MEMORY_LOW),
        (100, Floor(100), None, R.OK),
        (100, Floor(11, percent=True), None, R.GPU_MEMORY_LOW),
        (100, Floor(10, percent=True), None, R.OK),
        (100, Floor(200), Floor(101), R.GPU_MEMORY_EXHAUSTED),
        (0, None, Floor(1), R.GPU_MEMORY_EXHAUSTED),
    ],
)
def test_memory_floors(
    free: int, warning: Floor | None, failure: Floor | None, expected: Reason
) -> None:
    rules = GpuRules(memory_warning=warning, memory_failure=failure)
    assert reasons(replace(GPU, memory_free=free), rules=rules) == [expected]


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_only_ecc_errors_since_the_start_count(before: int, now: int) -> None:
    first, later = replace(GPU, ecc=before), replace(GPU, ecc=now)
    new = now > before or (now < before and now > 0)
    assert reasons(later, baseline=[first]) == [R.GPU_ECC if new else R.OK]


def test_an_ecc_counter_that_was_unreadable_at_first_starts_later() -> None:
    baseline = first_seen({}, [replace(GPU, ecc=None)])
    baseline = first_seen(baseline, [replace(GPU, ecc=7)])
    baseline = first_seen(baseline, [replace(GPU, ecc=9)])
    assert baseline["GPU-a"].ecc == 7


def test_an_xid_in_the_first_reading_is_new() -> None:
    reading = replace(GPU, xids=(Xid(79, 1),))
    findings = assess_gpu([reading], first_seen({}, [reading]), RULES)
    assert [(f.reason, f.detail) for f in findings] == [(R.GPU_XID, "GPU 0 GPU-a: Xid 79")]


@pytest.mark.parametrize(
    ("xid", "found"),
    [
        (13, R.OK),  # graphics engine exception: the application
        (31, R.OK),  # page fault: the application
        (46, R.GPU_XID),  # stopped processing: reset
        (48, R.GPU_XID),  # an ECC error of two bits: by its workflow
        (62, R.GPU_XID),  # microcontroller halt: reset
        (63, R.OK),  # a row remapping was recorded
        (64, R.GPU_XID),  # it could not be recorded: reset
        (74, R.GPU_XID),  # NVLink: by its workflow
        (79, R.GPU_XID),  # off the bus
        (92, R.OK),  # many errors that were corrected
        (94, R.OK),  # contained to one application
        (95, R.GPU_XID),  # not contained: reset
        (119, R.GPU_XID),  # GSP timeout: reset
        (140, R.GPU_XID),  # an ECC error that escaped: reset
        (143, R.GPU_XID),  # initialisation: reset
        (151, R.GPU_XID),  # not in the tables: as before, critical
        (154, R.OK),  # another Xid asks for the action
        (160, R.OK),  # memory was marked for repair
        (999, R.GPU_XID),  # undocumented
    ],
)
def test_xids_count_as_in_nvidias_catalogue(xid: int, found: Reason) -> None:
    assert reasons(replace(GPU, xids=(Xid(xid, 1),))) == [found]


def test_a_row_remapping_warns_while_it_is_pending() -> None:
    waiting = replace(GPU, xids=(Xid(63, 1),), row_remap=RowRemap(0, 1, pending=True, failed=False))
    assert reasons(waiting) == [R.GPU_RETIREMENT_PENDING]


@pytest.mark.parametrize("xid", sorted(HARMLESS_XIDS))
def test_harmless_xids_are_ignored_unless_configured(xid: int) -> None:
    reading = replace(GPU, xids=(Xid(xid, 3),))
    assert reasons(reading) == [R.OK]
    assert reasons(reading, rules=GpuRules(ignored_xids=frozenset())) == [R.GPU_XID]


def test_an_error_after_a_reset_counts_again() -> None:
    reading = replace(GPU, xids=(Xid(95, 1),), ecc=2)
    baseline = reset_baseline(first_seen({}, [GPU]), [reading])
    assert [f.reason for f in assess_gpu([reading], baseline, RULES)] == [R.OK]
    again = replace(reading, xids=(Xid(95, 2),))
    assert [f.reason for f in assess_gpu([again], baseline, RULES)] == [R.GPU_XID]


def test_a_reset_of_the_baseline_does_not_hide_a_lost_gpu() -> None:
    baseline = reset_baseline(first_seen({}, [GPU]), [])
    assert [f.reason for f in assess_gpu([], baseline, RULES)] == [R.GPU_LOST]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (0x000, R.OK),
        (0x001, R.OK),  # idle
        (0x002, R.OK),  # application clocks
        (0x004, R.OK),  # power cap
        (0x010, R.OK),  # sync boost
        (0x100, R.OK),  # display clocks
        (0x008, R.GPU_THROTTLED),
        (0x020, R.GPU_THROTTLED),
        (0x040, R.GPU_THROTTLED),
        (0x080, R.GPU_THROTTLED),
        (0x00D, R.GPU_THROTTLED),
    ],
)
def test_only_heat_and_hardware_count_as_throttling(mask: int, expected: Reason) -> None:
    assert reasons(replace(GPU, throttling=mask)) == [expected]


@pytest.mark.parametrize(
    ("temperature", "slowdown", "margin", "expected"),
    [
        (80, 89, None, R.OK),
        (85, 89, None, R.OK),
        (86, 89, None, R.GPU_HOT),
        (95, 89, None, R.GPU_HOT),
        (95, None, None, R.OK),
        (None, 89, None, R.OK),
        (40, 89, 3, R.GPU_HOT),  # the margin is to the nearest of several thresholds
        (88, 89, 20, R.OK),
    ],
)
def test_heat(
    temperature: int | None, slowdown: int | None, margin: int | None, expected: Reason
) -> None:
    reading = replace(
        GPU, temperature=temperature, slowdown_temperature=slowdown, thermal_margin=margin
    )
    assert reasons(reading) == [expected]


@pytest.mark.parametrize(
    ("asked", "own", "expected"),
    [
        (False, frozenset({1}), R.OK),
        (True, frozenset({1}), R.GPU_FOREIGN_PROCESS),
        (True, frozenset({1, 2, 3}), R.OK),
        (True, frozenset(), R.GPU_FOREIGN_PROCESS),
        (True, None, R.OK),
    ],
)
def test_foreign_processes_are_reported_if_configured(
    asked: bool, own: frozenset[int] | None, expected: Reason
) -> None:
    reading = replace(GPU, processes=(GpuProcess(1), GpuProcess(2)))
    assert reasons(reading, rules=GpuRules(foreign_processes=asked), own_pids=own) == [expected]


def test_many_foreign_processes_make_a_short_text() -> None:
    reading = replace(GPU, processes=tuple(GpuProcess(pid) for pid in range(1000)))
    [finding] = assess_gpu([reading], {}, GpuRules(foreign_processes=True), frozenset())
    assert finding.detail == "GPU 0 GPU-a: used by other processes: 0, 1, 2, 3, 4, …"


def test_a_gpu_that_triton_does_not_report_is_not_lost() -> None:
    other = GpuReading("GPU-b", source="triton")
    assert reasons(other, baseline=[GPU, other]) == [R.OK]


def test_a_gpu_that_only_triton_reported_is_not_lost_if_nvml_does_not_list_it() -> None:
    assert reasons(GPU, baseline=[GpuReading("GPU-b", source="triton")]) == [R.OK]


def test_a_reading_from_nvml_replaces_the_baseline_from_triton() -> None:
    baseline = first_seen({}, [replace(GPU, source="triton", ecc=None)])
    baseline = first_seen(baseline, [replace(GPU, ecc=4)])
    assert (baseline["GPU-a"].source, baseline["GPU-a"].ecc) == ("nvml", 4)


def test_the_worst_finding_comes_first_and_the_layer_gets_one() -> None:
    hot = replace(GPU, temperature=88, slowdown_temperature=89)
    broken = replace(GPU, uuid="GPU-b", index=1, row_remap=RowRemap(0, 0, False, True))
    findings = assess_gpu([hot, broken], {}, RULES)
    assert [finding.reason for finding in findings] == [R.GPU_ROW_REMAP_FAILED, R.GPU_HOT]
    one = combined(findings)
    assert one.reason is R.GPU_ROW_REMAP_FAILED
    assert one.detail == "GPU 1 GPU-b: row remapping failed (also GPU_HOT)"
    assert combined(findings[1:]) is findings[1]
