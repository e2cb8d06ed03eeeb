"""Root file systems with Debian's systemd, fetched as Consul is: from a suite, verified by apt.

Run as a module, a part of `make setup`, it provides those that are missing.
"""

import shutil
import sys
from pathlib import Path

from sidecar.runtime.errors import PartMissing
from tests.support import debian_root

# Debian 12, the oldest that the units are tried on, and 13, each with the version of its systemd.
SUITES = {"bookworm": 252, "trixie": 257}
_PACKAGES = (
    *("systemd", "libnss-systemd", "dbus", "polkitd"),
    *("bash", "coreutils", "dash", "procps", "python3-minimal"),
)
_UNITS = Path("usr/lib/systemd/system")
# The accounts that installing the packages creates.
_USERS = {"root": 0, "messagebus": 100, "polkitd": 101, "nobody": 65534}


def provide(suite: str) -> Path:
    """The folder of the root file system of `suite`, which is downloaded if it is missing.

    Raises:
        PartMissing: it cannot be downloaded.
    """
    return debian_root.provide("systemd", _PACKAGES, suite, _furnish, __file__)


def _furnish(root: Path) -> None:
    """Create what installing the packages would have, as far as the units need it to boot."""
    for folder in ("dev", "mnt", "proc", "root", "run", "sys", "tmp", "etc/systemd/system"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    if not (root / "var/run").is_symlink():
        shutil.rmtree(root / "var/run", ignore_errors=True)
        (root / "var/run").symlink_to("../run")
    (root / "usr/bin/sh").unlink(missing_ok=True)
    (root / "usr/bin/sh").symlink_to("dash")
    (root / "etc/machine-id").touch()
    users = (f"{name}:x:{uid}:{uid}::/:/usr/sbin/nologin\n" for name, uid in _USERS.items())
    (root / "etc/passwd").write_text("".join(users))
    (root / "etc/group").write_text("".join(f"{name}:x:{i}:\n" for name, i in _USERS.items()))
    (root / "etc/nsswitch.conf").write_text("passwd: files systemd\ngroup: files systemd\n")
    # Boot starts only the journal and D-Bus, which starts polkit.
    for wanted in (root / _UNITS).glob("*.wants"):
        for link in wanted.iterdir():
            if not link.name.startswith(("systemd-journald", "dbus.")):
                link.unlink()
    sockets = root / _UNITS / "sockets.target.wants"
    sockets.mkdir(exist_ok=True)
    for name in ("systemd-journald.socket", "systemd-journald-dev-log.socket"):
        if not (sockets / name).is_symlink():
            (sockets / name).symlink_to(Path("..", name))
    (root / "etc/systemd/system/default.target").symlink_to(Path("/", _UNITS, "multi-user.target"))


def main() -> None:
    """Provide all of them. A missing one fails only the tests that need it, which say so."""
    for suite in SUITES:
        try:
            print(f"systemd: {provide(suite)}")
        except PartMissing as error:
            print(f"{error}\n  The tests on systemd will fail.", file=sys.stderr)


if __name__ == "__main__":
    main()
