from pathlib import Path

import structlog
from prometheus_client import generate_latest
from structlog.testing import capture_logs
from structlog.typing import FilteringBoundLogger

from sidecar.xds.catalog.catalog_entries import SkippedEntry
from sidecar.xds.catalog.instance_watch import RetainedInstance
from sidecar.xds.metrics import ControlPlaneMetrics
from sidecar.xds.observer import Observer
from tests.support.virtual_clock import VirtualClock

SILENT = "catalog 10 s old; Consul: no answer in time"


async def test_a_frozen_watch_is_not_hidden_by_another_one() -> None:
    clock, metrics = VirtualClock(), ControlPlaneMetrics()
    log: FilteringBoundLogger = structlog.get_logger()
    observer = Observer(metrics, clock, log)

    def age() -> float | None:
        return metrics.registry.get_sample_value(
            "triton_sidecar_xds_catalog_age_seconds", {"service": "triton"}
        )

    with capture_logs() as lines:
        observer.answered("triton", "instances")
        observer.answered("triton", "lock")
        await clock.advance(10.0)
        observer.failed("triton", "lock", "denied")
        observer.answered("triton", "instances")
        observer.failed("triton", "lock", "denied")
        assert age() == 10.0
        observer.answered("triton", "lock")
        assert age() == 0.0
    assert [line["event"] for line in lines] == ["catalog_frozen", "catalog_recovered"]
    assert {line["what"] for line in lines} == {"lock"}


async def test_a_watch_that_never_answered_has_an_age_too() -> None:
    clock, metrics = VirtualClock(), ControlPlaneMetrics()
    observer = Observer(metrics, clock, structlog.get_logger())
    with capture_logs():
        observer.failed("triton", "lock", "denied")
    await clock.advance(5.0)
    observer.answered("triton", "instances")
    assert b'catalog_age_seconds{service="triton"} 5.0' in generate_latest(metrics.registry)


def observed() -> tuple[VirtualClock, ControlPlaneMetrics, Observer]:
    clock, metrics = VirtualClock(), ControlPlaneMetrics()
    return clock, metrics, Observer(metrics, clock, structlog.get_logger())


async def test_the_status_line_has_the_age_of_the_catalog() -> None:
    clock, metrics, observer = observed()
    with capture_logs():
        observer.state_read(Path("state"), 3000.0, ("triton",))
        observer.unconfirmed("triton", stale=True)
        await clock.advance(600.0)
        assert observer.status == "catalog 60 min old; stale from disk"
        for what in ("instances", "lock", "policy"):
            observer.answered("triton", what)
        observer.unconfirmed("triton", stale=False)
        assert observer.status == ""
        await clock.advance(2100.0)
        assert observer.status == "catalog 35 min old"
    assert b'stale{service="triton"} 0.0' in generate_latest(metrics.registry)


async def test_the_status_line_shows_failures_and_exclusions_at_once() -> None:
    clock, _, observer = observed()
    with capture_logs():
        for what in ("instances", "lock", "policy"):
            observer.answered("triton", what)
        await clock.advance(10.0)
        # Another watch of another service has been quiet for longer, which does not matter.
        observer.answered("other", "policy")
        await clock.advance(10.0)
        observer.answered("triton", "policy")
        assert observer.status == ""
        observer.failed("other", "policy", "Consul: no answer in time")
        assert observer.status == SILENT
        observer.answered("other", "policy")
        for what in ("instances", "lock"):
            observer.failed("triton", what, "Consul: no answer in time")
        observer.policy_refused("triton", "mode: expected one of …")
        await clock.advance(20.0)
        ignored = "the policy of triton is ignored"
        assert observer.status == f"catalog 40 s old; Consul: no answer in time; {ignored}"
        for what in ("instances", "lock"):
            observer.answered("triton", what)
        observer.policy_refused("triton", "")
        assert observer.status == ""


def test_retained_instances_are_counted_by_their_reports() -> None:
    _, metrics, observer = observed()
    with capture_logs() as lines:
        observer.retained(
            "triton",
            (RetainedInstance("a", serves=True), RetainedInstance("b"), RetainedInstance("c")),
        )
        page = generate_latest(metrics.registry)
        assert b'held_evictions{says="serves",service="triton"} 1.0' in page
        assert b'held_evictions{says="nothing",service="triton"} 2.0' in page
        observer.dropped("triton", "b", "it did not answer")
        observer.retained("triton", ())
        assert b'dropped_total{service="triton"} 1.0' in generate_latest(metrics.registry)
    assert len(lines) == 3


def test_disk_errors_are_logged_once_and_counted() -> None:
    _, metrics, observer = observed()
    with capture_logs() as lines:
        for _ in range(3):
            observer.state_unwritten(Path("state"), "no space")
        observer.state_written()
        observer.state_written()
    assert [line["log_level"] for line in lines] == ["error", "info"]
    assert b"state_errors_total 3.0" in generate_latest(metrics.registry)


def test_a_rejected_policy_is_an_alert_until_a_valid_one() -> None:
    _, metrics, observer = observed()
    with capture_logs():
        observer.policy_refused("triton", "mode: expected one")
        assert b'policy_refused{service="triton"} 1.0' in generate_latest(metrics.registry)
        observer.policy_refused("triton", "")
    assert b'policy_refused{service="triton"} 0.0' in generate_latest(metrics.registry)


def test_an_entry_with_an_ignored_field_is_not_excluded() -> None:
    _, metrics, observer = observed()
    with capture_logs():
        observer.skipped(
            "triton", (SkippedEntry("a", "capacity", partly=True), SkippedEntry("b", "port"))
        )
    assert b'entries_left_out{service="triton"} 1.0' in generate_latest(metrics.registry)


def test_what_was_logged_already_is_not_logged_again() -> None:
    _, metrics, observer = observed()
    instances = [f"i{number}" for number in range(100)]
    with capture_logs() as lines:
        for number in range(1, 101):
            observer.skipped(
                "triton", tuple(SkippedEntry(each, "port") for each in instances[:number])
            )
        assert [line["instance"] for line in lines] == instances
        assert b'entries_left_out{service="triton"} 100.0' in generate_latest(metrics.registry)
        lines.clear()
        for number in range(1, 101):
            observer.retained(
                "triton", tuple(RetainedInstance(each) for each in instances[:number])
            )
        assert [line["silent"] for line in lines] == [[each] for each in instances]
        observer.retained("triton", (RetainedInstance("i0"),))
        assert len(lines) == 100
        observer.retained("triton", (RetainedInstance("i0", serves=True), RetainedInstance("i1")))
        assert (lines[-1]["serving"], lines[-1]["silent"]) == (["i0"], ["i1"])
        lines.clear()
        observer.ended("triton")
        observer.skipped("triton", (SkippedEntry("i0", "port"),))
        assert len(lines) == 1


async def test_the_status_line_of_a_watch_that_was_never_answered() -> None:
    clock, _, observer = observed()
    with capture_logs():
        observer.failed("triton", "lock", "Consul: no answer in time")
        await clock.advance(40.0)
        assert observer.status == "no catalog yet; Consul: no answer in time"
        observer.answered("triton", "lock")
        observer.state_written()  # which says nothing about Consul
        await clock.advance(10.0)
        observer.failed("triton", "lock", "Consul: no answer in time")
        assert observer.status == SILENT


async def test_verification_and_writing_have_no_age() -> None:
    clock, _, observer = observed()
    with capture_logs():
        observer.answered("triton", "lock")
        observer.failed("triton", "verification", "Consul: no leader")
        observer.rollback_unwritten("triton", "Consul: Permission denied")
        await clock.advance(40.0)
        assert observer.status == "Consul: Permission denied; Consul: no leader"
