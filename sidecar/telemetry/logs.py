"""Logs: structlog's, for people on a terminal and as JSON lines elsewhere."""

import functools
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import structlog

from sidecar.events import (
    CanaryCached,
    CanaryDerived,
    ConnectionsReset,
    DrainUnverified,
    DrillProgressed,
    Event,
    GpuMissing,
    HookRan,
    ModelFilesDiffer,
    ModelSetCompared,
    ModelSetRead,
    ModelStateSaved,
    NotificationDropped,
    Paused,
    Probed,
    Promoted,
    Published,
    RecoveryActed,
    RecoveryDecided,
    Registered,
    Reloaded,
    RequestFailed,
    RoleChanged,
    StepDone,
    StopTimeoutTooShort,
    VerdictChanged,
)
from sidecar.telemetry import line_writer
from sidecar.telemetry.line_writer import LineWriter
from sidecar.verdict.evidence import Finding

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


# Syslog priorities, for the journal.
_PRIORITIES = {"critical": 2, "exception": 3, "error": 3, "warning": 4, "info": 6, "debug": 7}
_WARN_AGAIN = 60.0  # seconds until a persistent failure is a warning again
_FLUSH_TIMEOUT = 2.0  # seconds at the end of the process for queued lines
_STDERR = 2


def configure(level: str, form: str) -> None:
    """Set up logging for this process, to standard error, which is never waited for.

    Args:
        level: the lowest level that is logged: debug, info, warning or error.
        form: json, console, or auto: console on a terminal, json elsewhere.
    """
    plain = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if plain
        else structlog.processors.JSONRenderer()
    )
    line_writer.unblock(_STDERR)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
            *([_with_priority] if _is_journal(_STDERR, os.environ) else []),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _Logger(),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_LibraryHandler()])


def _is_journal(number: int, environ: Mapping[str, str]) -> bool:
    """Whether a file descriptor is connected to systemd's journal; systemd.exec(5)."""
    try:
        at = os.fstat(number)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{at.st_dev}:{at.st_ino}"


def _with_priority(_: object, method: str, line: Any) -> str:
    """A line with its priority for the journal; sd-daemon(3)."""
    return f"<{_PRIORITIES.get(method, _PRIORITIES['info'])}>{line}"


@functools.cache
def writer() -> LineWriter:
    """The writer of this process's log; there is one standard error."""
    return LineWriter(_STDERR, _notice)


def finish() -> None:
    """Wait briefly until the log is written, so that later output comes after it."""
    if writer.cache_info().currsize:
        writer().flush(_FLUSH_TIMEOUT)


def _notice(count: int, why: str) -> str:
    log = structlog.wrap_logger(structlog.ReturnLogger(), wrapper_class=structlog.BoundLogger)
    return str(log.warning("log_lines_dropped", dropped=count, why=why))


class _Logger:
    """The logger that structlog hands rendered lines to."""

    def msg(self, line: str) -> None:
        """Queue a line."""
        writer().put(line)

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg


class _LibraryHandler(logging.Handler):
    """Writes the log records of libraries and asyncio as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            level, text = _level(record.levelno), record.getMessage()
            log = structlog.get_logger()
            log.log(
                level, "library_log", logger=record.name, message=text, exc_info=record.exc_info
            )
        except Exception:  # noqa: BLE001  # as every handler does
            self.handleError(record)


def _level(number: int) -> int:
    """The level of structlog for a library's own level: the highest that is not above it."""
    known = (logging.CRITICAL, *reversed(_LEVELS.values()))
    return next((level for level in known if number >= level), logging.DEBUG)


class LogHook:
    """Logs events. A persistent failure is a warning once a minute, and debug in between.

    Each line is one call with a literal name and its fields; docs/logs.md is generated from them.
    """

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        self._log = log
        self._warned: dict[tuple[str, str, str], float] = {}

    def __call__(self, event: Event) -> None:
        """Log one event."""
        match event:
            case Probed(findings):
                for finding in findings:
                    self._finding(finding)
            case RequestFailed(system, operation, error):
                self._failure(system, operation, str(error))
            case _:
                self._health(event)
                self._recovery(event)
                self._election(event)
                self._models(event)
                self._unusable_models(event)
                self._operation(event)
                self._drain(event)
                self._drill(event)

    def _failure(self, system: str, operation: str, error: str) -> None:
        now = time.monotonic()
        self._warned = {f: at for f, at in self._warned.items() if now - at < _WARN_AGAIN}
        if (system, operation, error) in self._warned:
            self._log.debug("request_failed", system=system, operation=operation, error=error)
        else:
            self._warned[system, operation, error] = now
            self._log.warning("request_failed", system=system, operation=operation, error=error)

    def _finding(self, finding: Finding) -> None:
        self._log.debug(
            "probed",
            layer=finding.layer.value,
            model=finding.subject,
            reason=finding.reason.value,
            detail=finding.detail,
            seconds=round(finding.seconds, 4),
        )

    def _health(self, event: Event) -> None:
        match event:
            case CanaryCached(model, advice):
                self._log.warning("canary_cached", model=model, advice=advice)
            case CanaryDerived(model, advice):
                self._log.warning("canary_derived", model=model, advice=advice)
            case GpuMissing(why, True):
                self._log.warning("gpu_hidden", why=why)
            case GpuMissing(why, False):
                self._log.info("gpu_missing", why=why)
            case VerdictChanged(before, after) if before.summary != after.summary:
                state, summary = before.state.value, after.summary
                if after.serving:
                    self._log.info("verdict_changed", before=state, after=summary)
                else:
                    self._log.warning("verdict_changed", before=state, after=summary)
            case Published(verdict, seconds):
                seconds = round(seconds, 4)
                self._log.info("verdict_published", verdict=verdict.summary, seconds=seconds)

    def _recovery(self, event: Event) -> None:
        log = self._log
        match event:
            case RecoveryDecided("idle", why, dry_run, action):
                log.info("recovery_idle", why=why, action=action, dry_run=dry_run)
            case RecoveryDecided("wait", why, dry_run, action):
                log.warning("recovery_waiting", why=why, action=action, dry_run=dry_run)
            case RecoveryDecided("act", why, dry_run, action):
                log.warning("recovery_acting", why=why, action=action, dry_run=dry_run)
            case RecoveryDecided("give up", why, dry_run, action):
                log.error("recovery_gave_up", why=why, action=action, dry_run=dry_run)
            case RecoveryActed(action, why, seconds, ""):
                log.warning("recovery_acted", action=action, why=why, seconds=round(seconds, 3))
            case RecoveryActed(action, why, seconds, error):
                seconds = round(seconds, 3)
                log.error("recovery_failed", action=action, why=why, seconds=seconds, error=error)

    def _election(self, event: Event) -> None:
        match event:
            case RoleChanged(before, after, epoch, why):
                self._log.info("role_changed", before=before, after=after, epoch=epoch, why=why)
            case Promoted(seconds, ""):
                self._log.info("promoted", seconds=round(seconds, 3))
            case Promoted(seconds, error):
                self._log.error("promotion_failed", seconds=round(seconds, 3), error=error)
            case Paused(""):
                self._log.info("automation_resumed")
            case Paused(why):
                self._log.warning("automation_paused", why=why)

    def _models(self, event: Event) -> None:
        match event:
            case ModelSetCompared(differs) if differs:
                self._log.warning("model_set_differs", differs=differs)
            case ModelSetRead(""):
                self._log.info("model_set_readable")
            case ModelSetRead(error):
                self._log.warning("model_set_unreadable", error=error)
            case ModelFilesDiffer(()):
                self._log.info("model_files_match")
            case ModelFilesDiffer(models):
                self._log.warning("model_files_differ", models=", ".join(models))
            case ModelStateSaved(""):
                self._log.info("model_state_saved")
            case ModelStateSaved(error):
                self._log.warning("model_state_not_saved", error=error)

    def _unusable_models(self, event: Event) -> None:
        """They change on their own where an instance does not need all of its models."""
        match event:
            case VerdictChanged(before, after) if before.unusable != after.unusable:
                models = {model: reason.value for model, reason in after.unusable}
                if after.serving and models.keys() - dict(before.unusable):
                    self._log.warning("models_unusable", models=models)
                else:
                    self._log.info("models_unusable", models=models)

    def _operation(self, event: Event) -> None:
        match event:
            case Registered(why):
                self._log.info("registered", why=why)
            case HookRan(name, seconds, ""):
                self._log.info("hook_ran", hook=name, seconds=round(seconds, 3))
            case HookRan(name, seconds, error):
                self._log.warning("hook_failed", hook=name, seconds=round(seconds, 3), error=error)
            case NotificationDropped(target, what, why):
                self._log.warning("notification_dropped", target=target, what=what, why=why)
            case Reloaded(changed, ""):
                self._log.info("reloaded", changed=changed)
            case Reloaded(changed, error):
                self._log.error("reload_failed", changed=changed, error=error)
            case StepDone(step, seconds, ""):
                self._log.info("step_done", step=step, seconds=round(seconds, 3))
            case StepDone(step, seconds, error):
                self._log.warning("step_failed", step=step, seconds=round(seconds, 3), error=error)

    def _drain(self, event: Event) -> None:
        match event:
            case StopTimeoutTooShort(why):
                self._log.warning("stop_timeout_too_short", why=why)
            case DrainUnverified(why):
                self._log.warning("drain_unverified", why=why)
            case ConnectionsReset(count):
                self._log.warning("connections_reset", count=count)

    def _drill(self, event: Event) -> None:
        log = self._log
        match event:
            case DrillProgressed("began", scenario, fault, by):
                log.warning("drill_began", scenario=scenario, fault=fault, by=by)
            case DrillProgressed("refused", scenario, fault, by, code, why):
                log.warning(
                    "drill_refused", scenario=scenario, fault=fault, by=by, code=code, why=why
                )
            case DrillProgressed("ended", scenario, fault, by, code, why):
                log.info("drill_ended", scenario=scenario, fault=fault, by=by, code=code, why=why)
            case DrillProgressed("aborted", scenario, fault, by, code, why):
                log.error(
                    "drill_aborted", scenario=scenario, fault=fault, by=by, code=code, why=why
                )
