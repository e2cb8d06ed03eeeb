"""Checks the paths in settings for `--check-config`; only looks at files, never changes them.

Files that other code reads anyway are checked there: tokens, certificates, canaries.
"""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from sidecar.models import loaded_set
from sidecar.runtime.errors import ConfigError
from sidecar.settings import SidecarSettings, XdsSettings
from sidecar.settings.tables.recovery import CommandAction, SignalAction
from sidecar.xds.catalog import cached_state

_PASSING = {errno.ENOSPC, errno.EDQUOT}  # a sidecar tolerates these and retries
# Errors of open(2) with O_TMPFILE on kernels and file systems that do not support it.
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}
_LINE = 4096  # bytes; the first line names the file's owner


def check_sidecar(settings: SidecarSettings) -> None:
    """Check the paths of a sidecar.

    Raises:
        ConfigError: a path is missing or of the wrong kind; lists every mistake.
    """
    found = {}
    if (folder := settings.triton.repository) is not None:
        found["triton.repository"] = _folder(folder)
    if (kept := settings.triton.state) is not None:
        found["triton.state"] = _replaced(
            kept, lambda first: loaded_set.foreign(first, settings.instance)
        )
    match settings.recovery.action:
        case CommandAction(command=(program, *_)):
            found["recovery.action.command"] = _program(program)
        case SignalAction(pid_file=Path() as path):
            found["recovery.action.pid_file"] = _written_later(path)
    _refuse(found)


def check_xds(settings: XdsSettings) -> None:
    """Check the paths of a control plane; errors as for `check_sidecar`."""
    if (path := settings.xds.state) is not None:
        _refuse({"xds.state": _replaced(path, _not_kept)})


def _refuse(found: Mapping[str, str]) -> None:
    mistakes = [f"{key}: {fault}" for key, fault in found.items() if fault]
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def _not_kept(first: bytes) -> str:
    if first and not cached_state.is_header(first):  # it would be moved aside and replaced
        return "expected a control plane's cached catalog, found another file"
    return ""


def _replaced(path: Path, foreign: Callable[[bytes], str]) -> str:
    """What is wrong with a file that is read and replaced; empty if nothing is.

    `foreign` takes the first line and says why the file belongs to another program.
    """
    if (fault := _written_later(path) or _room(path.parent)) or not path.exists():
        return fault
    if not os.access(path, os.R_OK):
        return f"expected a file that can be read, found {_shown(path)}"
    with path.open("rb") as file:
        fault = foreign(file.readline(_LINE))
    return f"{fault}, {_shown(path)}" if fault else ""


def _written_later(path: Path) -> str:
    """What is wrong with a file that need not exist yet; empty if nothing is."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        return f"expected a file, found {_shown(path)}: {getattr(error, 'strerror', error)}"
    if stat.S_ISDIR(mode):
        return f"expected a file, found a folder, {_shown(path)}"
    return "" if stat.S_ISREG(mode) else f"expected a file, found something else, {_shown(path)}"


def _room(folder: Path) -> str:
    """What is wrong with a folder in which a file is to be written; empty if nothing is."""
    if not folder.is_dir():
        return f"expected a file in a folder that exists, found no folder {_shown(folder)}"
    wanted = "expected a file in a folder that may be written"
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return f"{wanted}, found {_shown(folder)}"
    try:
        _make_temporary(folder)
    except OSError as error:
        if error.errno not in _PASSING:
            return f"{wanted}, found {_shown(folder)}: {error.strerror}"
    return ""


def _make_temporary(folder: Path) -> None:
    """Create a file as the writer will, because access(2) proves little for root.

    The file never has a name, except on file systems without O_TMPFILE.
    """
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600))
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".check-config."):
            pass


def _folder(path: Path) -> str:
    try:
        with os.scandir(path):
            return ""
    except FileNotFoundError:
        return f"expected a folder, found no {_shown(path)}"
    except (OSError, ValueError) as error:
        return f"expected a folder, found {_shown(path)}: {getattr(error, 'strerror', error)}"


def _program(name: str) -> str:
    if shutil.which(name) is None:
        return f"expected a program that can be run, found {name!r:.80}"
    return ""


def _shown(path: Path) -> str:
    return f"{str(path)!r:.200}"
