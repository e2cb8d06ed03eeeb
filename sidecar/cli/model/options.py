"""The options that the verbs of `triton-sidecar model` share, and the store that they name."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.cli.exit_status import epilog, exit_with_status

if TYPE_CHECKING:
    from sidecar.models.store.places.backend import Backend
    from sidecar.models.store.progress import Progress

_VARIABLE = "TRITON_SIDECAR_MODELS__STORE"
UNREACHED = "the store is on another machine, and does not answer"
STATUS = epilog(unreached=UNREACHED)

Store = Annotated[
    str | None,
    typer.Option(
        metavar="PLACE",
        help="A folder, or s3://BUCKET/PREFIX. Default: TRITON_SIDECAR_MODELS__STORE, or "
        "models.store of --config.",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The sidecar's TOML file.", show_default=False),
]
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="MODEL:TAG, or MODEL@sha256:DIGEST, or its first 8 digits or more."
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME", help="MODEL, MODEL:TAG or MODEL@sha256:DIGEST.", show_default=False
    ),
]
Move = Annotated[bool, typer.Option("--move", help="Move the name if another snapshot has it.")]


def place(store: str | None, config: Path | None) -> str:
    """The store that the options, the environment or the settings name.

    Raises:
        ConfigError: none do.
    """
    from sidecar.runtime.errors import ConfigError

    # Settings take more memory than a push: they are read if there are any.
    found = store or os.environ.get(_VARIABLE)
    if config is not None and not store:
        from sidecar.settings import load_operator

        found = load_operator(config).models.store
    if not found:
        raise ConfigError(f"expected --store, {_VARIABLE}, or models.store of --config")
    return found


@contextmanager
def opened(store: str | None, config: Path | None, as_json: bool) -> Iterator["Backend"]:
    """The store that the options name; errors of the block end the verb."""
    from sidecar.models.store.places import location

    with ending(as_json, remote=False):
        found = place(store, config)
    with ending(as_json, remote=location.is_remote(found)):
        yield location.backend(found)


@contextmanager
def ending(as_json: bool, *, remote: bool) -> Iterator[None]:
    """Turn errors of the block into lines, JSON and an exit status.

    Without `remote`, the store is in a folder: it is no other side that could be unreachable.
    """
    with exit_with_status(_failure if as_json else None, remote=remote):
        yield


def _failure(why: str) -> None:
    """Print why nothing was done; the module for that takes memory, so only then."""
    from sidecar.cli.operator import json_output

    json_output.failure(why)


def operator() -> str:
    """The operator as `user@host`."""
    from sidecar.operator.target import operator_name

    return operator_name()


def now() -> str:
    """The time in RFC 3339."""
    from sidecar.runtime.timestamps import timestamp

    return timestamp(time.time())


@contextmanager
def progress() -> Iterator["Progress"]:
    """What shows how far a long operation is, on a terminal."""
    from sidecar.cli.model.progress_line import ProgressLine
    from sidecar.models.store.progress import Progress

    if not sys.stderr.isatty():
        yield Progress()
        return
    line = ProgressLine()
    try:
        yield line
    finally:
        line.clear()
