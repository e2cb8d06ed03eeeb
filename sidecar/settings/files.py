"""The files that a settings file names, relative to it; canary files are settings themselves."""

import glob
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sidecar.runtime.errors import ConfigError
from sidecar.settings.mistakes import Source, dotted

# Keys of an expectation whose value is a file name if it is a string.
_FILES = ("allclose", "cosine", "json_schema")
# Tables, and keys in them whose value is a path.
_NAMED = (("triton", "repository"), ("triton", "state"), ("xds", "state"), ("models", "store"))
_URL = "://"  # such a value of these keys is no path
_DEEPEST = 64  # levels of tables and lists; the code that walks them recurses


def anchor(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The tree of a TOML file, with the files that it names made relative to `folder`.

    These are the paths of `_NAMED` and those in canaries. A malformed canary is left unchanged:
    validation reports it.
    """
    for name, key in _NAMED:
        table = tree.get(name)
        if not isinstance(table, dict):
            continue
        value = table.get(key)
        if isinstance(value, str) and value and _URL not in value:
            tree = tree | {name: table | {key: str(folder / value)}}
    canaries = tree.get("canary")
    if not isinstance(canaries, dict):
        return tree
    anchored = {model: _canary(canary, folder) for model, canary in canaries.items()}
    return tree | {"canary": anchored}


def _canary(canary: object, folder: Path) -> object:
    if not isinstance(canary, dict):
        return canary
    found = dict(canary)
    if "inputs" in canary:
        found["inputs"] = _tables(canary["inputs"], ("file",), folder)
    if isinstance(canary.get("steps"), list):
        found["steps"] = [_tables(step, ("file",), folder) for step in canary["steps"]]
    if "expect" in canary:
        found["expect"] = _tables(canary["expect"], _FILES, folder)
    return found


def _tables(tables: object, keys: Sequence[str], folder: Path) -> object:
    if not isinstance(tables, list):
        return tables
    return [
        table | {key: str(folder / table[key]) for key in keys if isinstance(table.get(key), str)}
        if isinstance(table, dict)
        else table
        for table in tables
    ]


def canaries(
    patterns: object, settings: Path | None, origin: str, known: Sequence[Source]
) -> list[Source]:
    """The files of `[canary.MODEL]` tables that paths and globs name, each as a source.

    `settings` is the settings file, whose folder they are relative to, and which a glob may also
    match. `origin` is where the patterns come from, `known` the sources read so far, whose canaries
    must not be described again.

    Raises:
        ConfigError: a pattern matches no file, a file is not TOML or has other tables, or a model
            is described twice; lists every mistake.
    """
    if not isinstance(patterns, list | tuple):
        return []  # validation reports it
    folder = settings.parent if settings else Path()
    mistakes: list[str] = []
    sources: list[Source] = []
    found: dict[Path, None] = {}  # a set in order
    for index, pattern in enumerate(patterns):
        if isinstance(pattern, str) and pattern:
            matches = [each for each in _matches(pattern, folder) if not _same(each, settings)]
            found |= dict.fromkeys(matches)
            if not matches:
                wanted = f"triton.canaries.{index}: expected other files or a glob of them"
                place = folder.absolute()
                mistakes.append(f"{origin}: {wanted}, found no {pattern[:200]!r} in {place}")
    for path in found:
        try:
            sources.append((str(path), anchor(_canary_tables(path), path.parent)))
        except ConfigError as error:
            mistakes.append(str(error))
    mistakes += _described_twice([*known, *sources])
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return sources


def _matches(pattern: str, folder: Path) -> list[Path]:
    # Not Path.glob, which does not accept absolute patterns and raises for some others.
    names = glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207
    return sorted(folder / name for name in names if _is_file(folder / name))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return True  # reading it reports what is wrong


def _same(path: Path, settings: Path | None) -> bool:
    return settings is not None and path.resolve() == settings.resolve()


def _canary_tables(path: Path) -> dict[str, Any]:
    tree = read(path)
    unexpected = sorted(tree.keys() - {"canary"})
    if unexpected:
        raise ConfigError(f"{path}: {unexpected[0]}: expected nothing but [canary.MODEL] tables")
    if not isinstance(tree.get("canary"), dict):
        raise ConfigError(f"{path}: canary: expected [canary.MODEL] tables")
    return tree


def _described_twice(sources: Sequence[Source]) -> Iterator[str]:
    owners: dict[str, str] = {}
    for name, tree in sources:
        described = tree.get("canary")
        for model in described if isinstance(described, Mapping) else ():
            if model in owners:
                yield f"{name}: canary.{model}: expected once, found in {owners[model]} as well"
            owners.setdefault(model, name)


def read(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        ConfigError: it cannot be read, is not TOML, or exceeds the limits on depth and integers.
    """
    try:
        with path.open("rb") as file:
            tree = tomllib.load(file)
    except OSError as error:
        wanted = "expected a configuration file in TOML"
        raise ConfigError(f"{path}: {wanted}: {error.strerror}") from error
    except RecursionError:
        raise ConfigError(f"{path}: expected TOML of at most {_DEEPEST} levels") from None
    except ValueError as error:
        message = " ".join(str(error).splitlines())
        raise ConfigError(f"{path}: expected TOML: {message:.200}") from error
    if fault := _excess(tree):
        raise ConfigError(f"{path}: {fault}")
    return tree


def _excess(tree: object) -> str:
    """What in a tree is too deep or too large; empty if nothing is."""
    left: list[tuple[tuple[int | str, ...], object]] = [((), tree)]
    while left:
        key, value = left.pop()
        if len(key) > _DEEPEST:
            return f"{dotted(key[:4])}: expected at most {_DEEPEST} levels of tables and lists"
        if isinstance(value, dict):
            left += [((*key, name), inner) for name, inner in value.items()]
        elif isinstance(value, list):
            left += [((*key, index), inner) for index, inner in enumerate(value)]
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:
            return f"{dotted(key)}: expected an integer of at most 64 bits"
    return ""
