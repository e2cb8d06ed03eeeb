"""How a verb ends: an error becomes lines on standard error and an exit status.

Here alone is decided which status that is; `docs/operations.md` has the table.
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
    """The exit statuses. INTERRUPTED is the shell's own for Ctrl-C."""

    DONE = 0
    REFUSED = 1
    MISTAKE = 2
    UNREACHED = 3
    INTERRUPTED = 130


def status_of(error: SidecarError) -> ExitStatus:
    """What an error means for the caller."""
    match error:
        case Interrupted():
            return ExitStatus.INTERRUPTED
        case AddressUnusable() | FileUnreadable():  # an address may be let go of, a file may come
            return ExitStatus.REFUSED
        case ConfigError():
            return ExitStatus.MISTAKE
        case DeadlineExceeded() | NoRoom():  # what is too slow was reached, as was the disk
            return ExitStatus.REFUSED
        case Unavailable():
            return ExitStatus.UNREACHED
    return ExitStatus.REFUSED


def epilog(
    done: str = "done",
    refused: str = "refused, or failed",
    unreached: str = "Consul is unreachable, or the address is not a Consul",
) -> str:
    """The statuses as `--help` tells them; without `unreached`, no other side is asked."""
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
    """Turn an error into lines on standard error and an exit status; `tell` is told it as well.

    `hint` is for those who cannot reach the other side. Not `remote`: there is none, and what
    cannot be had of this machine has failed.
    """
    try:
        yield
    except SidecarError as error:
        status = status_of(error)
        if not remote and status is ExitStatus.UNREACHED:
            status = ExitStatus.REFUSED
        for line in str(error).splitlines():
            print(f"triton-sidecar: {line}", file=sys.stderr)
        if hint and status is ExitStatus.UNREACHED:
            print(f"triton-sidecar: {hint}", file=sys.stderr)
        if tell:
            tell(str(error))
        raise typer.Exit(status) from None


# Typer exports the kinds of it, but not what they have in common.
_UsageError: type[Any] = typer.BadParameter.__mro__[1]


class Root(TyperGroup):
    """The command itself: with `--json`, programs get their object of a mistake in the call too."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> Any:
        """Run it, as any command."""
        given = sys.argv[1:] if args is None else list(args)
        self._as_json = "--json" in given
        return super().main(args, *more, **extra)

    def make_context(self, *given: Any, **extra: Any) -> Any:
        """Read the options before the first verb."""
        with self._told():
            return super().make_context(*given, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Read the rest, and do it."""
        with self._told():
            return super().invoke(ctx)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except _UsageError as error:
            self._tell(error.format_message())
            raise
        except KeyboardInterrupt:
            self._tell("interrupted")
            raise

    def _tell(self, why: str) -> None:
        if self._as_json:
            from sidecar.cli.operator.json_output import failure

            failure(why)
