"""Logs: structlog, for people on a terminal and as JSON lines elsewhere."""

import logging
import sys
import time

import structlog

from sidecar.events import (
    Event,
    Probed,
    Published,
    Registered,
    Reloaded,
    RequestFailed,
    RoleChanged,
    StepDone,
    VerdictChanged,
)
from sidecar.settings.tables import LogSettings

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


_REPEAT = 60.0  # seconds until a failure that goes on is a warning again


def configure(settings: LogSettings) -> None:
    """Set up logging for this process; logs go to standard error."""
    plain = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if plain
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


class LogHook:
    """Writes events down. A failure that goes on is a warning once a minute, and debug between."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        self._log = log
        self._warned: dict[tuple[str, str, str], float] = {}

    def __call__(self, event: Event) -> None:
        """Write one event down."""
        match event:
            case Probed(evidence, seconds):
                failed = [finding.reason.value for finding in evidence if not finding.ok]
                self._log.debug("probed", seconds=round(seconds, 4), failed=failed)
            case VerdictChanged(before, after):
                write = self._log.info if after.serving else self._log.warning
                write("verdict", before=before.state.value, after=after.summary)
            case Published(verdict, seconds):
                self._log.info("published", verdict=verdict.summary, seconds=round(seconds, 4))
            case Registered(why):
                self._log.info("registered", why=why)
            case RoleChanged(before, after, epoch, why):
                self._log.info("role", before=before, after=after, epoch=epoch, why=why)
            case RequestFailed(system, operation, error):
                self._failure(system, operation, str(error))
            case Reloaded(changed, error):
                write = self._log.error if error else self._log.info
                write("reload", changed=changed, **({"error": error} if error else {}))
            case StepDone(step, seconds, error):
                write = self._log.warning if error else self._log.info
                write(step, seconds=round(seconds, 3), **({"error": error} if error else {}))

    def _failure(self, *failure: str) -> None:
        system, operation, error = failure
        now = time.monotonic()
        self._warned = {f: at for f, at in self._warned.items() if now - at < _REPEAT}
        write = self._log.debug if failure in self._warned else self._log.warning
        self._warned.setdefault((system, operation, error), now)
        write("request failed", system=system, operation=operation, error=error)
