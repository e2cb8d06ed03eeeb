"""The end of a verb: an error becomes lines on standard error and an exit status.

Only this module decides which status that is; `docs/operations.md` has the table.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import typer
from typer.core import TyperGroup

from sidecar.runtime.errors import (
    AddressUnusable,
    ConfigError,
    DeadlineExceeded,
    FileUnreadable,
    Interrupted,
    NoRoom,
    SidecarError,
    Unavailable,
)


class ExitStatus(IntEnum):
    """The exit statuses. INTERRUPTED is the shell's status for Ctrl-C."""

    DONE = 0
    REFUSED = 1
    MISTAKE = 2
    UNREACHED = 3
    INTERRUPTED = 130


def status_of(error: SidecarError) -> ExitStatus:
    """The exit status for an error."""
    match error:
        case Interrupted():
            return ExitStatus.INTERRUPTED
        case AddressUnusable() | FileUnreadable():  # either may become usable
            return ExitStatus.REFUSED
        case ConfigError():
            return ExitStatus.MISTAKE
        case DeadlineExceeded() | NoRoom():  # the other side, or the disk, was reached
            return ExitStatus.REFUSED
        case Unavailable():
            return ExitStatus.UNREACHED
    return ExitStatus.REFUSED


def epilog(
    done: str = "done",
    refused: str = "refused, or failed",
    unreached: str = "Consul is unreachable, or the address is not a Consul",
) -> str:
    """The statuses for `--help`; without `unreached`, the verb contacts no other side."""
    lines = [
        f"0  {done}",
        f"1  {refused}",
        "2  invalid usage, or a mistake in a file",
        *([f"3  {unreached}"] if unreached else ()),
    ]
    # \b: lines as they are.
    return "\b\nExit status:\n" + "".join(f"  {line}\n" for line in lines)


@contextmanager
def exit_with_status(
    tell: Callable[[str], None] | None = None, hint: str = "", *, remote: bool = True
) -> Iterator[None]:
    """Turn an error into lines on standard error and an exit status; `tell` gets its text as well.

    `hint` is printed if the other side is unreachable. Without `remote` there is no other side, and
    an unavailable part of this machine is a failure.
    """
    try:
        yield
    except SidecarError as error:
        status = status_of(error)
        if not remote and status is ExitStatus.UNREACHED:
            status = ExitStatus.REFUSED
        for line in "\n".join((str(error), *getattr(error, "__notes__", ()))).splitlines():
            print(f"triton-sidecar: {line}", file=sys.stderr)
        if hint and status is ExitStatus.UNREACHED:
            print(f"triton-sidecar: {hint}", file=sys.stderr)
        if tell:
            tell(str(error))
        raise typer.Exit(status) from None


# Typer exports the subclasses, but not their base class.
_UsageError: type[Any] = typer.BadParameter.__mro__[1]


class Root(TyperGroup):
    """The root command: with `--json`, a usage error is printed as JSON, too."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> Any:
        """Run the command."""
        given = sys.argv[1:] if args is None else list(args)
        self._as_json = "--json" in given
        return super().main(args, *more, **extra)

    def make_context(self, *given: Any, **extra: Any) -> Any:
        """Read the options before the first verb."""
        with self._reported():
            return super().make_context(*given, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Read the other options, and run the verb."""
        with self._reported():
            return super().invoke(ctx)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except _UsageError as error:
            self._report(error.format_message())
            raise
        except KeyboardInterrupt:
            self._report("interrupted")
            raise

    def _report(self, why: str) -> None:
        if self._as_json:
            from sidecar.cli.operator.json_output import failure

            failure(why)
