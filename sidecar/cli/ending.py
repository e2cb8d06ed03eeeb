"""How a verb ends: an error becomes lines on standard error and an exit status."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from sidecar.errors import ConfigError, DeadlineExceeded, SidecarError, Unavailable

_UNREACHED = 3


@contextmanager
def ending(tell: Callable[[str], None] | None = None, hint: str = "") -> Iterator[None]:
    """Turn an error into lines on standard error and an exit status; `tell` is told it as well.

    `hint` is for those who cannot reach the other side.
    """
    try:
        yield
    except SidecarError as error:
        for line in str(error).splitlines():
            print(f"triton-sidecar: {line}", file=sys.stderr)
        if hint and _status(error) == _UNREACHED:
            print(f"triton-sidecar: {hint}", file=sys.stderr)
        if tell:
            tell(str(error))
        raise typer.Exit(_status(error)) from None


def _status(error: Exception) -> int:
    """2: a mistake in the call. 3: the other side cannot be reached. 1: anything else."""
    if isinstance(error, ConfigError):
        return 2
    # What is too slow was reached.
    return (
        _UNREACHED
        if isinstance(error, Unavailable) and not isinstance(error, DeadlineExceeded)
        else 1
    )
