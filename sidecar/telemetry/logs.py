"""Logs: structlog, for people on a terminal and as JSON lines elsewhere."""

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
    ConnectionsCut,
    DrainCutShort,
    DrainDoubted,
    Event,
    GpuMissing,
    HookRan,
    ModelFilesAstray,
    ModelMemoryFailed,
    ModelSetCompared,
    ModelSetRead,
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
    VerdictChanged,
)
from sidecar.health.evidence import Finding
from sidecar.settings.tables import LogSettings
from sidecar.telemetry import lines
from sidecar.telemetry.lines import Lines

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


# Of syslog, for the journal.
_PRIORITIES = {"critical": 2, "exception": 3, "error": 3, "warning": 4, "info": 6, "debug": 7}
_REPEAT = 60.0  # seconds until a failure that goes on is a warning again
_LAST = 2.0  # seconds at the end of the process for lines that still wait
_STDERR = 2


def configure(settings: LogSettings) -> None:
    """Set up logging for this process; logs go to standard error, and nobody waits for it."""
    plain = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if plain
        else structlog.processors.JSONRenderer()
    )
    lines.unblock(_STDERR)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
            *([_with_priority] if _is_journal(_STDERR, os.environ) else []),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
        logger_factory=lambda *_: _Logger(),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Foreign()])


def _is_journal(number: int, environ: Mapping[str, str]) -> bool:
    """Whether a file descriptor leads to systemd's journal, as systemd.exec(5) has one find out."""
    try:
        at = os.fstat(number)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{at.st_dev}:{at.st_ino}"


def _with_priority(_: object, method: str, line: Any) -> str:
    """A line with its level as the journal knows it; sd-daemon(3)."""
    return f"<{_PRIORITIES.get(method, _PRIORITIES['info'])}>{line}"


@functools.cache
def written() -> Lines:
    """What writes this process's log; it has one standard error."""
    return Lines(_STDERR, _notice)


def finish() -> None:
    """Wait a moment until all that was logged is written; what is said then comes after it."""
    if written.cache_info().currsize:
        written().flush(_LAST)


def _notice(count: int, why: str) -> str:
    told = structlog.wrap_logger(structlog.ReturnLogger(), wrapper_class=structlog.BoundLogger)
    return str(told.warning("log lines dropped", dropped=count, why=why))


class _Logger:
    """What structlog hands lines to, whatever their level."""

    def msg(self, line: str) -> None:
        """Have a line written."""
        written().put(line)

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg


class _Foreign(logging.Handler):
    """Has what libraries and asyncio say written as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            said = structlog.get_logger().bind(logger=record.name)
            said.log(_level(record.levelno), record.getMessage(), exc_info=record.exc_info)
        except Exception:  # noqa: BLE001  # as every handler does
            self.handleError(record)


def _level(number: int) -> int:
    """The level that structlog has for one of somebody's own: the highest that is not above it."""
    known = (logging.CRITICAL, *reversed(_LEVELS.values()))
    return next((level for level in known if number >= level), logging.DEBUG)


class LogHook:
    """Writes events down. A failure that goes on is a warning once a minute, and debug between."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        self._log = log
        self._warned: dict[tuple[str, str, str], float] = {}

    def __call__(self, event: Event) -> None:
        """Write one event down."""
        match event:
            case Probed(findings):
                for finding in findings:
                    self._write(_finding(finding))
            case RequestFailed(system, operation, error):
                self._failure(system, operation, str(error))
            case _:
                self._write(_health(event) or _election(event) or _operation(event))

    def _write(self, line: "_Line | None") -> None:
        if line:
            level, text, fields = line
            getattr(self._log, level)(text, **fields)

    def _failure(self, *failure: str) -> None:
        system, operation, error = failure
        now = time.monotonic()
        self._warned = {f: at for f, at in self._warned.items() if now - at < _REPEAT}
        write = self._log.debug if failure in self._warned else self._log.warning
        self._warned.setdefault((system, operation, error), now)
        write("request failed", system=system, operation=operation, error=error)


_Line = tuple[str, str, dict[str, object]]  # level, text, fields


def _finding(finding: Finding) -> _Line:
    fields: dict[str, object] = {
        "layer": finding.layer.value,
        "model": finding.subject,
        "reason": finding.reason.value,
        "detail": finding.detail,
        "seconds": round(finding.seconds, 4),
    }
    return "debug", "probed", fields


def _health(event: Event) -> _Line | None:
    match event:
        case CanaryCached(_, advice):
            return "warning", "canary answered from the response cache", {"advice": advice}
        case CanaryDerived(_, advice):
            return "warning", "canary derived", {"advice": advice}
        case GpuMissing(why, hidden):
            if hidden:
                return "warning", "Triton has GPUs, and the sidecar sees none", {"why": why}
            return "info", "no GPU to look at", {"why": why}
        case VerdictChanged(before, after) if before.summary != after.summary:
            level = "info" if after.serving else "warning"
            return level, "verdict", {"before": before.state.value, "after": after.summary}
        case RecoveryDecided(outcome, why, dry_run, action):
            level = {"idle": "info", "give up": "error"}.get(outcome, "warning")
            fields = {"why": why, "action": action, "dry_run": dry_run}
            return level, f"recovery: {outcome}", fields
        case RecoveryActed(action, why, seconds, error):
            level = "error" if error else "warning"
            fields = {"action": action, "why": why, "seconds": round(seconds, 3)}
            return level, "recovery: acted", {**fields, **({"error": error} if error else {})}
    return None


def _election(event: Event) -> _Line | None:
    match event:
        case RoleChanged(before, after, epoch, why):
            return "info", "role", {"before": before, "after": after, "epoch": epoch, "why": why}
        case Paused(why):
            return "warning", "automation is paused" if why else "automation goes on", {"why": why}
        case ModelSetCompared(differs) if differs:
            return "warning", "another model set", {"differs": differs}
        case ModelSetRead(error):
            text = "model set unreadable" if error else "model set readable again"
            return "warning" if error else "info", text, {"error": error}
        case ModelFilesAstray(models):
            text = "is not what is loaded" if models else "is what is loaded again"
            level, which = ("warning", {"models": ", ".join(models)}) if models else ("info", {})
            return level, f"what lies in the model repository {text}", {**which}
        case ModelMemoryFailed(error):
            text = "what is loaded is not remembered" if error else "what is loaded is remembered"
            return "warning" if error else "info", text, {"error": error}
        case Promoted(seconds, error):
            level, failed = ("error", {"error": error}) if error else ("info", {})
            return level, "promotion", {"seconds": round(seconds, 3), **failed}
    return None


def _operation(event: Event) -> _Line | None:
    match event:
        case Published(verdict, seconds):
            fields = {"verdict": verdict.summary, "seconds": round(seconds, 4)}
            return "info", "published", fields
        case Registered(why):
            return "info", "registered", {"why": why}
        case HookRan(name, seconds, error):
            level, failed = ("warning", {"error": error}) if error else ("info", {})
            return level, "hook", {"hook": name, "seconds": round(seconds, 3), **failed}
        case NotificationDropped(target, what, why):
            fields = {"target": target, "what": what, "why": why}
            return "warning", "notification dropped", fields
        case Reloaded(changed, error):
            failed = {"error": error} if error else {}
            return "error" if error else "info", "reload", {"changed": changed, **failed}
        case DrainCutShort(why):
            return "warning", "Triton would be stopped before a drain ends", {"why": why}
        case DrainDoubted(why):
            return "warning", "drain cannot be proven", {"why": why}
        case ConnectionsCut(count):
            return "warning", "connections cut", {"count": count}
        case StepDone(step, seconds, error):
            failed = {"error": error} if error else {}
            level = "warning" if error else "info"
            return level, step, {"seconds": round(seconds, 3), **failed}
    return None
