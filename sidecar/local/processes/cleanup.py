"""Cleanup: the lock on a mesh's folder, and the removal of what a mesh left behind.

Acts: os, shutil, signal, tempfile, time.
"""

import fcntl
import os
import shlex
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidecar.local import meshfile
from sidecar.local.planning import ports
from sidecar.local.processes import process, state_file
from sidecar.local.processes.identity import Identity, alive, marked, send
from sidecar.local.processes.state_file import MeshState
from sidecar.runtime.errors import ConfigError, Unavailable, unwritable, words

LOCK = "mesh.lock"
# What a run leaves besides its logs; instance folders are named after their instance.
_REMAINS = ("consul", "consul.json", "xds.toml", "xds-state.json", "envoy.yaml", "tokens")
_DEADLINE = 15.0  # seconds for killed processes to end
_PAUSE = 0.05
_LEAST = 256 * 1024  # bytes that a mesh needs in its folder at least


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Lock the folder for one supervisor; a killed one releases it too.

    Raises:
        ConfigError: a mesh is running there.
    """
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder}: a mesh is running there already; {_way_out(folder)}"
            ) from None
        yield
    finally:
        os.close(handle)


def refuse_running(folder: Path) -> None:
    """Check that no mesh of the folder is still running; for the holder of the claim.

    Raises:
        ConfigError: one is running there, though its supervisor was killed.
    """
    found = state_file.load(folder)
    if found and _processes(found):
        raise ConfigError(
            f"{folder}: a mesh is running there, but its supervisor was killed; {_way_out(folder)}"
        )


@contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Translate errors of reading and writing a folder.

    Raises:
        Unavailable: its disk is full, or a file cannot be read or written.
    """
    try:
        yield
    except shutil.Error as error:  # copying a folder; each is (from, to, why)
        raise Unavailable(f"{folder}: {words(OSError(error.args[0][0][2]))}") from error
    except OSError as error:
        raise Unavailable(f"{error.filename or folder}: {error.strerror or error}") from error


def is_claimed(folder: Path) -> bool:
    """Whether a supervisor holds the folder."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def prepare(folder: Path) -> None:
    """Create the folder, readable by its owner only.

    Raises:
        ConfigError: it holds other files, which cleanup might remove; or it is not writable.
        NoRoom: its disk is full.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        foreign = not (folder / LOCK).exists() and any(folder.iterdir())
        if not foreign:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(_LEAST))
    except OSError as error:
        message = f"--dir {folder}: expected a folder to write to: {error.strerror}"
        raise unwritable(error)(message) from error
    if foreign:
        raise ConfigError(f"--dir {folder}: expected an empty folder, or one of an earlier mesh")


def _way_out(folder: Path) -> str:
    down = f"`triton-sidecar local down --mesh {shlex.quote(str(folder))}`"
    return f"{down} stops it, `--dir` chooses another folder"


def sweep(folder: Path) -> bool:
    """Kill and remove what the last mesh of a folder left, except its logs.

    For the holder of the claim, when no supervisor runs. Returns whether there was anything.

    Raises:
        Unavailable: something could not be removed; the message lists it. A retry may help.
    """
    found = state_file.load(folder)
    if found is None:
        return False
    deadline = time.monotonic() + _DEADLINE
    _kill(found, deadline)
    for prefix in found.shm_prefixes:
        process.remove_shared_memory(prefix)
    # A process counts as gone with its main thread, but its ports close with its last one.
    while (left := leftovers(found)) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    if left:
        raise Unavailable(f"{folder}: still there: " + ", ".join(left))
    for part in found.parts:
        if part.kind == "triton":
            shutil.rmtree(folder / part.name, ignore_errors=True)
    for name in _REMAINS:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (folder / meshfile.NAME).unlink(missing_ok=True)
    # Last: as long as it exists, what it names can be cleaned up.
    (folder / state_file.NAME).unlink(missing_ok=True)
    return True


def leftovers(found: MeshState) -> list[str]:
    """What still exists of a mesh that should be gone."""
    processes = [f"process {identity.pid}" for identity in _processes(found)]
    regions = [str(path) for prefix in found.shm_prefixes for path in process.shared_memory(prefix)]
    listening = [f"port {port}" for port in found.ports if ports.in_use(port)]
    return processes + regions + listening


def _kill(found: MeshState, deadline: float) -> None:
    while (left := _processes(found)) and time.monotonic() < deadline:
        for identity in left:
            send(identity, signal.SIGKILL)
        time.sleep(_PAUSE)


def _processes(found: MeshState) -> set[Identity]:
    recorded = {part.process for part in found.parts if part.process and alive(part.process)}
    return recorded | set(marked(found.mesh))
