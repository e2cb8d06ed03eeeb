"""Files of `[canary.MODEL]` tables: read as the sidecar reads them, and written with care."""

import glob
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidecar.health.canary.definition import Canary
from sidecar.health.canary.propose import files_of
from sidecar.local.planning import toml
from sidecar.runtime.errors import ConfigError, unwritable, words
from sidecar.settings import SidecarSettings, files, load_sidecar
from sidecar.settings.canaries import build_all
from sidecar.settings.tables.health import HealthSettings

# The mark at the beginning of a recorded file, after its "# ": later versions know it by this.
HEAD = "Recorded by triton-sidecar"


@dataclass(frozen=True, slots=True)
class Described:
    """Canaries, the places where they are described, and the models that are served without one.

    `triton` is the address to ask if nobody names another; `headers` reads what goes with a call,
    and `max_answer` is how many bytes of an answer a sidecar holds.
    """

    canaries: Sequence[Canary]
    origins: Mapping[str, str]
    bare: Sequence[str] = ()
    triton: str | None = None
    headers: Callable[[], Mapping[str, str]] = dict
    max_answer: int = HealthSettings().max_answer


def of_files(paths: Sequence[Path]) -> Described:
    """The canaries of files that hold nothing else, sorted by their models' names.

    Raises:
        ConfigError: with every mistake at once.
    """
    origins: dict[str, str] = {}
    for path in paths:
        tables = files.read(path).get("canary")
        if not isinstance(tables, Mapping) or not tables:
            raise ConfigError(f"{path}: expected [canary.MODEL] tables")
        origins |= dict.fromkeys(tables, str(path))
    named = [glob.escape(str(path.absolute())) for path in paths]
    flags = {
        "triton.models": [*origins],
        "triton.canaries": named,
    }
    settings = load_sidecar(None, flags)
    return Described(
        canaries=build_all(settings),
        origins=origins,
        headers=settings.triton.read_headers,
        max_answer=settings.health.max_answer,
    )


def of_settings(path: Path) -> Described:
    """The canaries of a sidecar.

    Raises:
        ConfigError: with every mistake at once.
    """
    settings = load_sidecar(path)
    canaries = build_all(settings)
    bare = sorted(set(settings.triton.models) - {canary.model for canary in canaries})
    return Described(
        canaries=canaries,
        origins=_origins(path, settings),
        bare=bare,
        triton=settings.triton.grpc,
        headers=settings.triton.read_headers,
        max_answer=settings.health.max_answer,
    )


def without_canaries(path: Path | None, model: str) -> Described:
    """The Triton beside a sidecar; its canaries need not be there yet.

    Without a settings file it is what the environment says, for asking one model at an address that
    is named.

    Raises:
        ConfigError: with every mistake at once.
    """
    flags: dict[str, object] = {"triton.canaries": []}
    settings = load_sidecar(path, flags if path else flags | {"triton.models": [model]})
    return Described(
        canaries=(),
        origins={},
        triton=settings.triton.grpc if path else None,
        headers=settings.triton.read_headers,
        max_answer=settings.health.max_answer,
    )


def _origins(path: Path, settings: SidecarSettings) -> dict[str, str]:
    """Where the canaries of a sidecar come from, as `settings.sources` has found them."""
    named = files.canaries(settings.triton.canaries, path, str(path), ())
    origins = dict.fromkeys(settings.canary, "environment")
    for origin, tree in [*named, (str(path), files.read(path))]:
        origins |= dict.fromkeys(tree.get("canary", ()), origin)
    return origins


def place(output: str, force: bool) -> Path:
    """Where a file can be written, as an absolute path; leaves nothing there.

    Raises:
        NoRoom: the disk is full.
        ConfigError: it cannot, or one exists and `force` is not given.
    """
    path = Path(output).absolute()
    try:
        if not output or path.is_dir():
            raise ConfigError(f"--output: expected the name of a file, found {output!r}")
        if not path.parent.is_dir():
            wanted = f"expected a folder that exists, found no {Path(output).parent}"
            raise ConfigError(f"--output {output}: {wanted}")
        if path.exists() and not path.is_file():
            raise ConfigError(f"--output {output}: expected a file, found a device or the like")
        refuse_existing([path], force)
        with TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        told = f"--output {output}: cannot be written: {words(error)}"
        raise unwritable(error)(told) from error


def refuse_existing(paths: Iterable[Path], force: bool) -> None:
    """See that files may be written.

    Raises:
        ConfigError: one exists, and `force` is not given.
    """
    for path in paths:
        if path.exists() and not force:
            raise ConfigError(
                f"{path}: exists already; --force overwrites it, --output names another"
            )


def arrays_of(path: Path) -> set[Path]:
    """The files that were written together with a file that was recorded; none of another file."""
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text).get("canary")
    except (OSError, ValueError):
        return set()
    if not text.startswith(f"# {HEAD}") or not isinstance(found, Mapping):
        return set()
    return {path.parent / name for name in files_of(found, path.stem)}


@contextmanager
def drafted(
    path: Path, model: str, table: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], head: str
) -> Iterator[Path]:
    """A file of one canary in a folder beside its place, where it is put if nothing is raised.

    `arrays` are written beside it under their names. Inputs' files are absolute in `table`, and
    relative in the file; `head` is the rest of its comment.

    Raises:
        NoRoom: the disk is full.
        ConfigError: it cannot be written.
    """
    try:
        with TemporaryDirectory(dir=path.parent, prefix=".canary-") as name:
            folder = Path(name)
            for file, array in arrays.items():
                np.save(folder / file, array, allow_pickle=False)
            draft, last = folder / path.name, folder / f".{path.name}"
            draft.write_text(_text(model, table, head, folder), encoding="utf-8")
            # Before anything is replaced: a disk that is full leaves all as it was.
            last.write_text(_text(model, table, head, path.parent), encoding="utf-8")
            yield draft
            for file in arrays:
                (folder / file).replace(path.parent / file)
            last.replace(path)
    except OSError as error:
        raise unwritable(error)(f"{path}: cannot be written: {words(error)}") from error


def read_back(draft: Path, place: Path) -> Canary:
    """The canary of a file that was `drafted`; mistakes are told as those of its place.

    Raises:
        ConfigError: it cannot be read as a sidecar reads it.
    """
    try:
        (canary,) = of_files([draft]).canaries
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(draft), str(place))) from error
    return canary


def remove(paths: Iterable[Path]) -> list[Path]:
    """Remove files, and say which were there.

    Raises:
        NoRoom: the disk does not do it now.
        ConfigError: one cannot be removed.
    """
    found = sorted(path for path in paths if path.is_file())
    for path in found:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(error)(f"{path}: cannot be removed: {words(error)}") from error
    return found


def _text(model: str, table: Mapping[str, Any], head: str, folder: Path) -> str:
    found = dict(table)
    if "inputs" in found:
        found["inputs"] = _relative(found["inputs"], folder)
    if "steps" in found:
        found["steps"] = [_relative(step, folder) for step in found["steps"]]
    return f"# {HEAD} {head}\n{toml.dumps({'canary': {model: found}})}"


def _relative(step: Sequence[Mapping[str, Any]], folder: Path) -> list[Mapping[str, Any]]:
    return [
        {**given, "file": os.path.relpath(given["file"], folder)}
        if Path(given.get("file", "")).is_absolute()
        else given
        for given in step
    ]
