"""Files of `[canary.MODEL]` tables: read as the sidecar reads them, and written with care."""

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidecar.errors import ConfigError
from sidecar.health.canary import Canary
from sidecar.health.inputs import build_all
from sidecar.local import toml
from sidecar.settings import SidecarSettings, files, load_sidecar


def read(paths: Sequence[Path]) -> list[Canary]:
    """The canaries of files that hold nothing else, sorted by their models' names.

    Raises:
        ConfigError: with every mistake at once.
    """
    models: dict[str, None] = {}
    for path in paths:
        tables = files.read(path).get("canary")
        if not isinstance(tables, Mapping) or not tables:
            raise ConfigError(f"{path}: expected [canary.MODEL] tables")
        models |= dict.fromkeys(tables)
    named = [glob.escape(str(path.absolute())) for path in paths]
    return build_all(load_sidecar(None, {"triton.models": [*models], "triton.canaries": named}))


def of_settings(path: Path) -> tuple[SidecarSettings, list[Canary], list[str]]:
    """A sidecar's settings, its canaries, and the models that it serves without one.

    Raises:
        ConfigError: with every mistake at once.
    """
    settings = load_sidecar(path)
    canaries = build_all(settings)
    bare = sorted(set(settings.triton.models) - {canary.model for canary in canaries})
    return settings, canaries, bare


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


@contextmanager
def drafted(
    path: Path, model: str, table: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], head: str
) -> Iterator[Path]:
    """A file of one canary in a folder beside its place, where it is put if nothing is raised.

    `arrays` are written beside it under their names. Inputs' files are absolute in `table`, and
    relative in the file; `head` is its comment.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, prefix=".canary-") as name:
            folder = Path(name)
            for file, array in arrays.items():
                np.save(folder / file, array, allow_pickle=False)
            draft = folder / path.name
            draft.write_text(_text(model, table, head, folder), encoding="utf-8")
            yield draft
            for file in arrays:
                (folder / file).replace(path.parent / file)
            draft.write_text(_text(model, table, head, path.parent), encoding="utf-8")
            draft.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def _text(model: str, table: Mapping[str, Any], head: str, folder: Path) -> str:
    found = dict(table)
    if "inputs" in found:
        found["inputs"] = _relative(found["inputs"], folder)
    if "steps" in found:
        found["steps"] = [_relative(step, folder) for step in found["steps"]]
    return f"# {head}\n{toml.dumps({'canary': {model: found}})}"


def _relative(step: Sequence[Mapping[str, Any]], folder: Path) -> list[Mapping[str, Any]]:
    return [
        {**given, "file": os.path.relpath(given["file"], folder)}
        if Path(given.get("file", "")).is_absolute()
        else given
        for given in step
    ]
