"""Reads files of `[canary.MODEL]` tables as the sidecar does, and writes them through a draft."""

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

# The beginning of a recorded file, after its "# ": later versions recognize it by this.
HEAD = "Recorded by triton-sidecar"


@dataclass(frozen=True, slots=True)
class Described:
    """Canaries, the places that describe them, and the served models without one.

    `triton` is the default address to ask; `headers` reads the headers of each call, and
    `max_answer` is the largest answer that a sidecar accepts, in bytes.
    """

    canaries: Sequence[Canary]
    origins: Mapping[str, str]
    bare: Sequence[str] = ()
    triton: str | None = None
    headers: Callable[[], Mapping[str, str]] = dict
    max_answer: int = HealthSettings().max_answer


def of_files(paths: Sequence[Path]) -> Described:
    """The canaries of files with no other tables, sorted by model name.

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
    """The canaries in a sidecar's settings.

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
    """A sidecar's Triton; the files of its canaries may be missing.

    Without a settings file, only the environment counts, to ask one model at a given address.

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
    """The file that describes each canary of a sidecar, as in `settings.sources`."""
    named = files.canaries(settings.triton.canaries, path, str(path), ())
    origins = dict.fromkeys(settings.canary, "environment")
    for origin, tree in [*named, (str(path), files.read(path))]:
        origins |= dict.fromkeys(tree.get("canary", ()), origin)
    return origins


def place(output: str, force: bool) -> Path:
    """The absolute path of a file that can be written; leaves no file behind.

    Raises:
        NoRoom: the disk is full.
        ConfigError: it cannot be written, or exists and `force` is not given.
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
        text = f"--output {output}: cannot be written: {words(error)}"
        raise unwritable(error)(text) from error


def refuse_existing(paths: Iterable[Path], force: bool) -> None:
    """Check that files may be written.

    Raises:
        ConfigError: one exists, and `force` is not given.
    """
    for path in paths:
        if path.exists() and not force:
            raise ConfigError(
                f"{path}: exists already; --force overwrites it, --output names another"
            )


def arrays_of(path: Path) -> set[Path]:
    """The array files that were written with a recorded file; none for any other file."""
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
    """A draft of a file with one canary, in a temporary folder; moved into place on success.

    `arrays` are written next to it under their names. Inputs' files are absolute in `table`, and
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
            # Before anything is replaced, so that a full disk leaves all as it was.
            last.write_text(_text(model, table, head, path.parent), encoding="utf-8")
            yield draft
            for file in arrays:
                (folder / file).replace(path.parent / file)
            last.replace(path)
    except OSError as error:
        raise unwritable(error)(f"{path}: cannot be written: {words(error)}") from error


def read_back(draft: Path, place: Path) -> Canary:
    """The canary of a `drafted` file; errors name its final place.

    Raises:
        ConfigError: a sidecar could not read it.
    """
    try:
        (canary,) = of_files([draft]).canaries
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(draft), str(place))) from error
    return canary


def remove(paths: Iterable[Path]) -> list[Path]:
    """Remove files; returns those that existed.

    Raises:
        NoRoom: the disk cannot do it now.
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
