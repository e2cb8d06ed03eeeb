"""nginx, HAProxy, keepalived and Caddy from Debian, with their libraries; nothing is installed.

The suite pins each: a stable release changes no upstream version, and apt verifies its signature.
A suite that has another version than `PROGRAMS` says is refused.

    python -m benchmarks.peers.programs
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sidecar.local.programs import debian, parts
from sidecar.runtime.errors import PartMissing, Unavailable


@dataclass(frozen=True, slots=True)
class Program:
    """A program, the suite that it is from, and the upstream version that the suite has.

    `asked` is its argument that prints the version.
    """

    name: str
    suite: str
    version: str
    folder: str = "usr/sbin"
    asked: str = "-v"


# keepalived 2.3 of trixie reads its options from /proc/self/exe, which is the loader here.
PROGRAMS = (
    Program("nginx", "trixie", "1.26.3"),
    Program("haproxy", "trixie", "3.0.11"),
    Program("keepalived", "bookworm", "2.2.7"),
    Program("caddy", "trixie", "2.6.2", "usr/bin", "version"),
)
_NUMBER = re.compile(r"(\d+\.\d+\.\d+)")
_LOADER = Path("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib")


def provide() -> dict[str, Path]:
    """The command of each program, by name; those that are not there yet are fetched.

    Raises:
        PartMissing: apt cannot provide them, or the suite has another version.
    """
    return {program.name: _provide(program) for program in PROGRAMS}


def version(name: str, command: Path) -> str:
    """The version that the command of a program reports.

    Raises:
        PartMissing: it does not run.
    """
    [asked] = [program.asked for program in PROGRAMS if program.name == name]
    done = subprocess.run([str(command), asked], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    found = _NUMBER.search(said)
    if found is None:
        raise PartMissing(f"{command} {asked} said: {said[:300]}")
    return found[1]


def _provide(program: Program) -> Path:
    target = parts.folder(os.environ) / f"{program.name}-{program.suite}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=target.parent) as temporary:
            _fetch(program, target, Path(temporary))
    return target / "bin" / program.name


def _fetch(program: Program, target: Path, temporary: Path) -> None:
    stage, work = temporary / "stage", temporary / "work"
    stage.mkdir(mode=0o755)
    work.mkdir()
    try:
        debian.fetch_system((program.name,), program.suite, stage, work)
    except Unavailable as error:
        raise PartMissing(f"{program.name} of {program.suite}: {error}") from error
    _trim(stage, program)
    _write_command(stage, target, program)
    stage.rename(target)
    if (found := version(program.name, target / "bin" / program.name)) != program.version:
        shutil.rmtree(target)
        raise PartMissing(f"{program.name}: expected {program.version}, found {found}")


def _trim(root: Path, program: Program) -> None:
    """Remove what the program does not need."""
    kept = {"usr", "lib", "lib64", Path(program.folder).name}
    for path in (*root.iterdir(), *(root / "usr").iterdir()):
        if path.name in kept and not path.is_symlink():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write_command(stage: Path, target: Path, program: Program) -> None:
    """A command that starts the program with the C library of its own release."""
    libraries = ":".join(str(target / folder) for folder in _LIBRARIES)
    binary = target / program.folder / program.name
    command = stage / "bin" / program.name
    command.parent.mkdir()
    text = f'exec {target / _LOADER} --library-path {libraries} {binary} "$@"'
    command.write_text(f"#!/bin/sh\n{text}\n")
    command.chmod(0o755)


if __name__ == "__main__":
    try:
        for name, command in provide().items():
            print(f"{name} {version(name, command)}: {command}")
    except PartMissing as error:
        sys.exit(str(error))
