import structlog
from prometheus_client import generate_latest
from structlog.testing import capture_logs
from structlog.typing import FilteringBoundLogger

from sidecar.xds.telemetry import ControlPlaneMetrics, Observer
from tests.pure.test_xds_watch import HandClock


async def test_a_frozen_watch_is_not_hidden_by_the_other_one() -> None:
    clock, metrics = HandClock(), ControlPlaneMetrics()
    log: FilteringBoundLogger = structlog.get_logger()
    observer = Observer(metrics, clock, log)

    def age() -> float | None:
        return metrics.registry.get_sample_value(
            "triton_sidecar_xds_catalog_age_seconds", {"service": "triton"}
        )

    with capture_logs() as lines:
        observer.answered("triton", "instances")
        observer.answered("triton", "lock")
        await clock.turn(10.0)
        observer.failed("triton", "lock", "denied")
        observer.answered("triton", "instances")
        observer.failed("triton", "lock", "denied")
        assert age() == 10.0
        observer.answered("triton", "lock")
        assert age() == 0.0
    assert [line["event"] for line in lines] == ["catalog frozen", "catalog follows Consul again"]
    assert {line["what"] for line in lines} == {"lock"}


async def test_a_watch_that_never_answered_has_an_age_too() -> None:
    clock, metrics = HandClock(), ControlPlaneMetrics()
    observer = Observer(metrics, clock, structlog.get_logger())
    with capture_logs():
        observer.failed("triton", "lock", "denied")
    await clock.turn(5.0)
    observer.answered("triton", "instances")
    assert b'catalog_age_seconds{service="triton"} 5.0' in generate_latest(metrics.registry)
