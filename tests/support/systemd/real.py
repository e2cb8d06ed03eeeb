"""The real programs instead of stand-ins: Consul, Envoy, Triton, and ours as the page installs it.

The host's Python is mounted at /opt/python, because services do not see home folders.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from sidecar.local.programs import parts
from sidecar.local.programs.fetching import MODELS
from tests.support.systemd.page import DRILL_PROGRAM, POLKIT_RULE, PROGRAM, ROOT

# The clients' Envoy, and Triton's gRPC and metrics by the name of the instance.
ENVOY = "127.0.0.1:10000"
TRITONS = {"0": "127.0.0.1:8001", "1": "127.0.0.1:8101"}

_NODE = "gpu-1"
_CONSUL = f"""
bootstrap_expect = 1
bind_addr = "127.0.0.1"
node_name = "{_NODE}"
"""
_CONSUL_UNIT = """
[Unit]
After=network-online.target
[Service]
ExecStart=/usr/local/bin/consul agent -config-dir=/etc/consul.d
KillSignal=SIGTERM
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""
# Triton is from a wheel: its libraries and the models' Python are not where an image has them.
_WHEEL = """
[Service]
Environment=LD_LIBRARY_PATH=/opt/libraries
Environment=PATH=/opt/models/bin:/usr/bin
"""
# An administrator's changes to the files: one machine for everything, recovery enabled, and a fault
# permitted that a sidecar may cause whose Triton has another user.
_EDITOR = r"""#!/bin/sh -eu
case $1 in
*/[01].toml)
    name=${1##*/} name=${name%.toml}
    sed -i -e 's/^# \[recovery\]/[recovery]/' -e 's/^# hung_after/hung_after/' \
        -e "/^# action/ { s/^# //; s/server@0/server@$name/ }" "$1"
    printf '[drill]\nallow = ["sidecar-killed"]\n' >>"$1"
    [ "$name" = 0 ] || sed -i -e 's/triton-0/triton-1/' -e 's/:\([89]\)00\([12]\)/:\110\2/' "$1" ;;
*/1.env) sed -i 's/_PORT=80/_PORT=81/' "$1" ;;
esac
"""
_INSTALL = """
mkdir -p "$1/opt/python" "$1/usr/local/bin"
mount --bind "$2" "$1/opt/python"
mount --rbind "$1/opt" /opt
mount --bind "$1/usr/local/bin" /usr/local/bin
export PATH=/opt/python/bin:$PATH
"""


def lay(folder: Path) -> Mapping[str, Path]:
    """Write the overlay of a machine's root into `folder`; gives what else is mounted there.

    Raises:
        PartMissing: a program is missing.
        AssertionError: the page's commands fail.
    """
    for part in ("deploy", "envoy", "consul"):
        shutil.copytree(ROOT / part, folder / "root/checkout" / part)
    for name in ("tinychat", "tinychat_unary"):
        shutil.copytree(ROOT / "triton_models" / name, folder / "srv/models" / name)
    _write(folder / "etc/consul.d/consul.hcl", (ROOT / "consul/server.hcl").read_text())
    _write(folder / "etc/consul.d/machine.hcl", _CONSUL)
    _write(folder / "etc/systemd/system/consul.service", _CONSUL_UNIT)
    _write(folder / "etc/systemd/system/tritonserver@.service.d/wheel.conf", _WHEEL)
    _write(folder / "etc/polkit-1/rules.d/50-triton-sidecar.rules", POLKIT_RULE)
    _write(folder / "root/editor", _EDITOR)
    (folder / "root/editor").chmod(0o755)
    _install(folder)
    _lay_libraries(folder)
    return _shown(folder)


def _triton() -> parts.TritonParts:
    """The downloaded Triton: the requirements of another one are unknown."""
    environ = {name: text for name, text in os.environ.items() if name != "TRITONSERVER_BIN"}
    return parts.triton(environ)


def _install(folder: Path) -> None:
    """Install our program with the page's commands, and an environment for Triton's models."""
    models = "/opt/python/bin/python3 -m venv --without-pip /opt/models"
    script = "\n".join((_INSTALL, PROGRAM, DRILL_PROGRAM, models))
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", script, "sh", str(folder), sys.base_prefix],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    library = Path("lib", f"python{sysconfig.get_python_version()}", "site-packages")
    server = _triton().binary.parents[3]
    shutil.copytree(server / MODELS / library, folder / "opt/models" / library, dirs_exist_ok=True)


def _lay_libraries(folder: Path) -> None:
    """Copy the shared libraries of the programs that the machine lacks."""
    target = folder / "usr/lib" / str(sysconfig.get_config_var("MULTIARCH"))
    target.mkdir(parents=True)
    known = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"\tlibstdc\+\+\.so\.6 .* => (\S+)", known)
    shutil.copy(found[0], target / "libstdc++.so.6")
    for place in _triton().library_path[:1]:
        for library in place.glob("libpython3*.so*"):
            shutil.copy(library, target / library.name)


def _shown(folder: Path) -> Mapping[str, Path]:
    triton = _triton()
    shown = {
        "/opt/python": Path(sys.base_prefix),
        "/opt/tritonserver": triton.binary.parents[1],
        "/opt/libraries": triton.library_path[-1],
        "/usr/local/bin/envoy": parts.find("envoy"),
        "/usr/local/bin/consul": parts.find("consul"),
    }
    for place, path in shown.items():
        if path.is_dir():
            (folder / place[1:]).mkdir(parents=True, exist_ok=True)
        else:
            (folder / place[1:]).touch()
    return shown


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
