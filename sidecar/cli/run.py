"""The options and steps that the long-running verbs share."""

import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from sidecar.cli.exit_status import epilog

Config = Annotated[
    Path | None,
    typer.Option(help="TOML file with the settings.", show_default=False),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="TABLE.KEY=VALUE",
        help="Override one setting; a list or table is JSON. Repeatable.",
    ),
]
CheckConfig = Annotated[
    bool,
    typer.Option("--check-config", help="Check the settings, print them and exit."),
]
STATUS = epilog(
    "stopped gracefully, or --check-config found no mistakes",
    "failed in a way that may pass, such as an address in use or a missing file: retry",
    unreached="",
)


def not_yet_running() -> None:
    """Until the process handles signals, ignore a reload and defer a stop.

    SIGTERM would otherwise end the process without withdrawing what an earlier one registered. As
    process 1 of a container it would not end it at all: the kernel drops a signal to process 1
    that has no handler, and the SIGKILL that follows would come while the instance serves.
    """
    import signal

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _defer)


def _defer(number: int, frame: object) -> None:
    """Block the signal and send it again: `lifecycle.run_until_stopped` unblocks it."""
    import signal
    import threading

    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    signal.pthread_kill(threading.get_ident(), number)


def serve(main: "Coroutine[Any, Any, int]") -> NoReturn:
    """Run `main` and exit with its status; its log is flushed before an error is printed."""
    import asyncio
    import sys

    from sidecar.telemetry import logs

    try:
        status = asyncio.run(main)
    finally:
        logs.finish()
    sys.exit(status)


def flags(overrides: list[str] | None) -> dict[str, object]:
    """The settings given as `table.key=value`."""
    found: dict[str, object] = {}
    for override in overrides or ():
        key, equals, value = override.partition("=")
        if not equals or "." not in key:
            wanted = f"expected TABLE.KEY=VALUE, found {override!r:.80}"
            raise typer.BadParameter(wanted, param_hint="'--set'")
        found[key] = _value(value)
    return found


def _value(text: str) -> object:
    """A list or table in JSON, as in the environment; anything else is text."""
    if not text.startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # such as an IPv6 address
        return text
