"""The files that an administrator installs: enabled units, and stand-ins for the programs."""

import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from tests.support.systemd.instance import ONE

ROOT = Path(__file__).parents[3]
# Not in /etc, where `systemctl mask` needs the name.
_UNITS = Path("usr/local/lib/systemd/system")
_ETC = Path("etc/systemd/system")
# The delays do not change outcomes; tests/pure/deploy checks those that we ship.
_SOON = "[Service]\nRestartSec=200ms\n"
_PROGRAMS = (
    "opt/tritonserver/bin/tritonserver",
    *(f"usr/local/bin/{name}" for name in ("triton-sidecar", "envoy", "consul")),
)
_CONSUL = "[Service]\nType=exec\nExecStart=/usr/local/bin/consul\n"
# A shutdown, as units see it: all stop, apart from what this target wants.
_DOWN = "[Unit]\nAllowIsolate=yes\nWants=systemd-journald.service\n"
DOWN = "going-down.target"
EDGE = ("consul.service", "triton-sidecar-xds.service", "envoy.service")


def lay(folder: Path, names: Collection[str], settings: Mapping[str, str]) -> Path:
    """Write files for instances with these names and for an edge, to overlay a machine's root.

    `settings` are drop-ins by unit; the unit for ONE is enabled if it is among the names.
    """
    system = folder / _UNITS
    shutil.copytree(ROOT / "deploy/systemd", system)
    for unit, text in (("consul.service", _CONSUL), (DOWN, _DOWN)):
        _write(system / unit, text)
    for unit in _enabled(names):
        link = folder / _ETC / "multi-user.target.wants" / unit
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path("/", _UNITS, re.sub(r"@\d+", "@", unit)))
    for unit in ("tritonserver", "triton-sidecar", "tritonserver@", "triton-sidecar@"):
        _write(folder / _ETC / f"{unit}.service.d/soon.conf", _SOON)
    for unit, text in settings.items():
        _write(folder / _ETC / f"{unit}.d/zz-event.conf", text)
    environment = (ROOT / "deploy/config/triton-0.env").read_text()
    for name in names:
        _write(folder / f"etc/triton/{'triton' if name == ONE else name}.env", environment)
    for token in ("consul-token", "xds-consul-token"):
        _write(folder / "etc/triton-sidecar" / token, "token")
    return lay_programs(folder)


def lay_programs(folder: Path) -> Path:
    """Write only the stand-ins for the programs."""
    for program in _PROGRAMS:
        _write(folder / program, (ROOT / "tests/support/systemd/stand_in.py").read_text())
        (folder / program).chmod(0o755)
    return folder


def _enabled(names: Collection[str]) -> Iterator[str]:
    yield from EDGE
    for name in names:
        if name == ONE:
            yield from ("tritonserver.service", "triton-sidecar.service")
        else:
            yield f"triton@{name}.target"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
