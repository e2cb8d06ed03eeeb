"""Log lines as hooks on events."""

import structlog

from sidecar.events import RequestFailed
from sidecar.runtime.errors import Unavailable
from sidecar.telemetry.logs import LogHook


def test_a_persistent_failure_is_a_warning_once() -> None:
    failed = RequestFailed("consul", "txn", Unavailable("gone"))
    with structlog.testing.capture_logs() as logs:
        hook = LogHook(structlog.get_logger())
        for _ in range(3):
            hook(failed)
        hook(RequestFailed("consul", "txn", Unavailable("another reason")))
    levels = [entry["log_level"] for entry in logs]
    assert levels == ["warning", "debug", "debug", "warning"]
