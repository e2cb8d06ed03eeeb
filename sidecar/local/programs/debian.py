"""Files from Debian packages, verified by apt and unpacked by dpkg; nothing is installed.

Only the standard library, for programs that run before any environment exists.

Acts: os, subprocess.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sidecar.runtime.errors import Unavailable

_KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
)
_COMMAND_TIMEOUT = 300.0
_NOT_A_RELEASE = ("security", "updates", "backports", "proposed")


@dataclass(frozen=True, slots=True)
class Archive:
    """A Debian archive that apt on this machine already uses.

    `keyring` is None where apt's trusted keys are used.
    """

    uri: str
    keyring: Path | None

    def source(self, suite: str) -> str:
        """The line of a sources.list for `suite` of this archive."""
        option = f"[signed-by={self.keyring}] " if self.keyring else ""
        return f"deb {option}{self.uri} {suite} main\n"


def parse_indextargets(text: str) -> tuple[Archive, ...]:
    """The distinct Debian archives in the output of `apt-get indextargets`, in apt's order.

    `Signed-By` is used only if it is one absolute path: older apt leaves it out, and it may also
    hold fingerprints or a whole key.
    """
    archives: dict[str, Archive] = {}
    for stanza in _stanzas(text):
        if stanza.get("Created-By") != "Packages" or stanza.get("Origin", "Debian") != "Debian":
            continue
        uri = stanza.get("Repo-URI", "")
        if not uri or uri.startswith("cdrom:"):
            continue
        release = stanza.get("Codename") or stanza.get("Release", "")
        if any(word in release for word in _NOT_A_RELEASE):
            continue
        signed_by = stanza.get("Signed-By", "")
        single_path = signed_by.startswith("/") and "," not in signed_by
        archives.setdefault(uri, Archive(uri, Path(signed_by) if single_path else None))
    return tuple(archives.values())


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    for block in text.split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines() if not line.startswith(" "))
        stanza = {key: value.strip() for key, _, value in pairs}
        if stanza:
            yield stanza


def fetch(package: str, into: Path, work: Path, suite: str | None = None) -> None:
    """Unpack `package` below the folder `into`, using the existing empty folder `work`.

    Without `suite`, the package comes from the suites configured on this machine.

    Raises:
        Unavailable: there is no apt, or it does not know the package or could not verify it.
    """
    if suite is not None:
        _from_suite(["download", package], suite, work)
    else:
        _download(package, work)
    debs = sorted(work.glob("*.deb"))
    if len(debs) != 1:
        raise Unavailable(f"apt-get download {package} left {len(debs)} packages instead of one")
    into.mkdir(parents=True, exist_ok=True)
    _run(["dpkg", "--extract", str(debs[0]), str(into)], work)


def fetch_system(packages: Sequence[str], suite: str, into: Path, work: Path) -> None:
    """Unpack packages of `suite`, with all their dependencies, into a root file system: `into`.

    Maintainer scripts are not run: there are no users, caches or alternatives.

    Raises:
        Unavailable: as for `fetch`.
    """
    # Nothing counts as installed.
    alone = ["-o", "Dir::State::status=/dev/null", "-o", "Debug::NoLocking=true"]
    install = ["install", "--yes", "--no-install-recommends", "--download-only", *alone, *packages]
    _from_suite(install, suite, work)
    for folder in ("bin", "sbin", "lib", "lib64"):
        (into / "usr" / folder).mkdir(parents=True)
        (into / folder).symlink_to(Path("usr", folder))
    archive = work / "files.tar"
    for deb in sorted((work / "cache" / "archives").glob("*.deb")):
        # Not `dpkg --extract`: older versions replace the links by folders.
        archive.write_bytes(_run_raw(["dpkg-deb", "--fsys-tarfile", str(deb)], work))
        keep = ("--keep-directory-symlink", "--no-same-owner")
        _run(["tar", "--extract", *keep, "-C", str(into), "-f", str(archive)], work)


def _download(package: str, work: Path) -> None:
    try:
        _run(["apt-get", "--quiet", *_options(), "download", package], work)
    except Unavailable:
        # A fresh container has no package lists, or stale ones: use new, private ones.
        lists = _private_lists(work)
        _run(["apt-get", "--quiet", *lists, "update"], work)
        _run(["apt-get", "--quiet", *lists, "download", package], work)


def _from_suite(command: list[str], suite: str, work: Path) -> None:
    """Run an apt-get command with `suite` alone, from the first archive that has it."""
    # By default only known releases are listed, and a fresh container knows none.
    text = _run(["apt-get", "indextargets"], work)
    text = text or _run(["apt-get", "indextargets", "--no-release-info"], work)
    keyring = next((path for path in _KEYRINGS if path.exists()), None)
    refusals: list[str] = []
    for archive in parse_indextargets(text):
        sources = work / "sources.list"
        sources.write_text(Archive(archive.uri, archive.keyring or keyring).source(suite))
        options = [
            *_private_lists(work),
            *("-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=/dev/null"),
        ]
        try:
            _run(["apt-get", "--quiet", *options, "update"], work)
            _run(["apt-get", "--quiet", *options, *command], work)
        except Unavailable as refusal:
            refusals.append(str(refusal))
        else:
            return
    raise Unavailable(
        "; ".join(refusals) or "apt on this machine is not set up with a Debian archive"
    )


def _private_lists(work: Path) -> list[str]:
    """Options that keep apt's lists and cache in `work`, leaving the system's untouched."""
    lists, cache = work / "lists", work / "cache"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    (cache / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    return [*_options(), "-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={cache}"]


def _options() -> list[str]:
    settings = {
        "Acquire::Retries": "3",
        "Acquire::http::Timeout": "30",
        "Acquire::Languages": "none",
        # apt's user could not write to a private folder.
        "APT::Sandbox::User": "root",
        # An index that cannot be fetched is an error, not a warning.
        "APT::Update::Error-Mode": "any",
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def _run(command: list[str], work: Path) -> str:
    return _run_raw(command, work).decode(errors="replace")


def _run_raw(command: list[str], work: Path) -> bytes:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_TIMEOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise Unavailable(f"{command[0]} is not on PATH (this is not Debian?)") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{command[0]} did not finish within {_COMMAND_TIMEOUT:.0f} s") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("E:")] or lines[-3:]
        raise Unavailable(f"{command[0]} said: {' '.join(errors)}")
    return done.stdout
