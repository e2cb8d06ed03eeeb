"""Tells the folder of one model from a folder of models, and from others.

Acts: through what it imports.
"""

from pathlib import Path

from sidecar.models import manifest
from sidecar.models.store.places.faults import translated

_CONFIG = "config.pbtxt"
_SHOWN = 5  # names in an error


def is_model(folder: Path) -> bool:
    """Whether Triton would take a folder for a model: it has a configuration or a version."""
    return (folder / _CONFIG).is_file() or _has_version(folder)


def models_in(folder: Path) -> list[str]:
    """The folders in a folder that are models themselves.

    A model with a configuration may have folders with numbers in them, which are no models.
    """
    configured = (folder / _CONFIG).is_file()
    with translated(folder):
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
    return [path.name for path in inside if _is_nested(path, configured)]


def _is_nested(folder: Path, within_model: bool) -> bool:
    if (folder / _CONFIG).is_file():
        return True
    return not within_model and not manifest.is_version(folder.name) and _has_version(folder)


def why_kept(target: Path) -> str:
    """Why a pull must not replace what is at a path, and what it would delete; empty if it may."""
    if target.is_symlink():
        return f"it is a symbolic link to {target.readlink()}: pull to there, or remove the link"
    if not target.is_dir():
        return "it is a file, which --replace would delete"
    if models := models_in(target):
        return f"it is a folder of models; --replace would delete {_listed(models)}"
    with translated(target):
        inside = sorted(path.name for path in target.iterdir())
    if inside and not is_model(target):
        return (
            f"it has neither {_CONFIG} nor a version, so it is no model's; --replace would delete "
            f"{_listed(inside)}"
        )
    return ""


def _has_version(folder: Path) -> bool:
    with translated(folder):
        found = [path for path in folder.iterdir() if manifest.is_version(path.name)]
    return any(path.is_dir() for path in found)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(ascii, names[:_SHOWN])) + more
