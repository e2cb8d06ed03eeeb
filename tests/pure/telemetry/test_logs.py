"""Log lines as hooks on events."""

from dataclasses import replace

import structlog

from sidecar.events import RequestFailed, VerdictChanged
from sidecar.runtime.errors import Unavailable
from sidecar.telemetry.logs import LogHook
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State


def test_a_persistent_failure_is_a_warning_once() -> None:
    failed = RequestFailed("consul", "txn", Unavailable("gone"))
    with structlog.testing.capture_logs() as logs:
        hook = LogHook(structlog.get_logger())
        for _ in range(3):
            hook(failed)
        hook(RequestFailed("consul", "txn", Unavailable("another reason")))
    levels = [entry["log_level"] for entry in logs]
    assert levels == ["warning", "debug", "debug", "warning"]


def test_models_that_are_not_served_are_logged_when_they_change() -> None:
    well = Verdict(State.PASSING, Reason.OK)
    ill = replace(well, unusable=(("chat", Reason.CANARY_FAILED),))
    with structlog.testing.capture_logs() as logs:
        hook = LogHook(structlog.get_logger())
        for before, after in ((well, ill), (ill, replace(ill, weight=10)), (ill, well)):
            hook(VerdictChanged(before, after))
    assert [(each["log_level"], each["event"], each["models"]) for each in logs] == [
        ("warning", "models_unusable", {"chat": "CANARY_FAILED"}),
        ("info", "models_unusable", {}),
    ]
