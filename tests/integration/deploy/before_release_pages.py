"""For `make test-systemd`: the commands of deploy/README.md, and recovery as in docs/recovery.md.

The commands run exactly as documented, block by block, on a machine that has a checkout and
stand-ins for the programs.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.systemd import root
from tests.support.systemd.files import ROOT, lay_programs
from tests.support.systemd.instance import Instance
from tests.support.systemd.machine import Machine, booted
from tests.support.systemd.page import (
    EDGE,
    GPU,
    NO_TOKENS,
    OWN_TOKENS,
    POLKIT_RULE,
    PROGRAM,
    REMOVED,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

SERVICES = ("tritonserver@0.service", "triton-sidecar@0.service")
AT_EDGE = ("triton-sidecar-xds.service", "envoy.service")
# No file of ours may be left here.
PLACES = ("/etc", "/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/local/bin", "/opt")
STATE = ("/var/lib", "/var/lib/private", "/var/cache", "/var/cache/private")


@pytest.fixture(scope="module", params=root.SUITES)
def bare(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    files = lay_programs(folder / "files")
    for part in ("deploy", "envoy"):
        shutil.copytree(ROOT / part, files / "root/checkout" / part)
    with booted(root.provide(request.param), files, folder / "console") as machine:
        yield machine


def run(machine: Machine, block: str) -> None:
    """Run a block of the page in the checkout, with an editor that changes nothing."""
    machine.run("sh", "-euc", f"export EDITOR=true; cd /root/checkout; {block}")


def up(machine: Machine, *units: str) -> None:
    machine.wait("all are up", lambda: all(each.pid for each in machine.units(*units).values()))


def down(machine: Machine, unit: str, status: str) -> None:
    """Wait until a unit has failed to start with this exit status."""
    machine.wait(f"{unit}: {status}", lambda: machine.show(unit, "ExecMainStatus") == [status])


def test_the_documented_commands_install_the_program() -> None:
    """On this machine, with a tmpfs over each folder that the block writes to."""
    hidden = "mount -t tmpfs tmpfs /opt && mount -t tmpfs tmpfs /usr/local/bin"
    shown = "/usr/local/bin/triton-sidecar --version"
    python = Path(shutil.which("python3") or "").resolve().parent
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", f"{hidden}; PATH={python}:$PATH; {PROGRAM}\n{shown}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("triton-sidecar ")


def test_the_documented_commands_deploy_and_remove_everything(bare: Machine) -> None:
    for name, text in (("token", "of sidecars"), ("xds-token", "of control planes")):
        bare.write(f"/root/checkout/{name}", text)
    run(bare, GPU)
    up(bare, *SERVICES)
    run(bare, EDGE)
    up(bare, *SERVICES, *AT_EDGE)

    run(bare, "mv /etc/triton-sidecar/consul-token /etc/triton-sidecar/0-token")
    run(bare, OWN_TOKENS)
    up(bare, *SERVICES)

    run(bare, "rm /etc/triton-sidecar/*-token")
    run(bare, "systemctl restart triton-sidecar-xds || true")
    down(bare, "triton-sidecar-xds.service", "243")
    run(bare, NO_TOKENS)
    up(bare, *SERVICES, *AT_EDGE)

    run(bare, REMOVED)
    ours, foreign = ("triton", "envoy"), {"envoy", "tritonserver"}  # the programs themselves stay
    left = bare.run("ls", "-1", *PLACES, *STATE, check=False).splitlines()
    assert {each for each in left if each.startswith(ours)} == foreign
    units = bare.run("systemctl", "list-unit-files", "--no-legend", check=False).splitlines()
    assert not [line for line in units if line.startswith(ours)]


@pytest.fixture
def watched(bare: Machine) -> Instance:
    """A Triton and its sidecar, which recovers it, and which polkit's rule allows to."""
    bare.write("/root/checkout/token", "of sidecars")
    bare.run("cp", "/usr/local/bin/envoy", "/usr/local/bin/triton-sidecar")  # the same stand-in
    bare.write("/etc/polkit-1/rules.d/50-triton-sidecar.rules", POLKIT_RULE)
    run(bare, GPU)
    pair = Instance(bare, "0")
    pair.settle()
    pair.look()
    return pair


def test_recovery_by_a_dynamic_user_is_denied(bare: Machine, watched: Instance) -> None:
    """The user's name is the one in polkit's rule, and NSS resolves it, but D-Bus does not."""
    pair = watched
    owner = bare.run("stat", "--format=%U", f"/proc/{pair.pid(pair.sidecar)}")
    assert owner == "triton-sidecar"
    pair.control(pair.sidecar, "unit", pair.triton)
    pair.signal(pair.sidecar, "USR1")
    refused = ("sidecar kill: refused", "sidecar restart: refused")
    bare.wait("it has asked", lambda: pair.history() == refused)
    said = bare.run("journalctl", "--unit", pair.sidecar, "--output=cat")
    assert "Transport endpoint is not connected" in said


def test_recovery_as_documented_restarts_triton_only(bare: Machine, watched: Instance) -> None:
    """From within the unit's sandbox, as a static user, through D-Bus and polkit."""
    pair = watched
    bare.run("sh", "-c", "echo 'triton-sidecar:x:102:102::/:/usr/sbin/nologin' >>/etc/passwd")
    bare.run("sh", "-c", "echo 'triton-sidecar:x:102:' >>/etc/group")
    user = "[Service]\nUser=triton-sidecar\n"
    bare.write("/etc/systemd/system/triton-sidecar@.service.d/user.conf", user)
    bare.run("systemctl", "daemon-reload")
    pair.systemctl("restart", pair.sidecar)
    pair.look()
    before = pair.pid(pair.triton)
    pair.control(pair.sidecar, "unit", pair.triton)
    pair.signal(pair.sidecar, "USR1")
    asked = {"sidecar kill: done", "sidecar restart: done"}
    bare.wait("it has asked", lambda: asked <= set(pair.history()))
    assert pair.pid(pair.triton) not in ("", before)
    assert pair.seen().sidecar == "same"

    pair.look()
    pair.control(pair.sidecar, "unit", "polkit.service")
    pair.signal(pair.sidecar, "USR1")
    refused = ("sidecar kill: refused", "sidecar restart: refused")
    bare.wait("it has asked again", lambda: len(pair.history()) == len(refused))
    assert pair.history() == refused


LISTENS = """
import socket, time
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    time.sleep(3600)
"""
KILLS = """
import asyncio, sys
from sidecar.recovery import actions
from sidecar.recovery.rules import Signal
action = Signal("KILL", timeout=60)
asyncio.run(actions.build(action, f"127.0.0.1:{sys.argv[1]}").perform())
"""
CAPABILITIES = ("kill", "sys_ptrace", "dac_read_search")


def as_user(uid: int, *capabilities: str) -> list[str]:
    """The start of a command line that runs Python as a user with only these capabilities."""
    user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    given = ",".join(f"+{each}" for each in capabilities)
    return [*user, f"--inh-caps={given}", f"--ambient-caps={given}", sys.executable, "-c"]


@pytest.mark.parametrize("missing", ["", "kill", "sys_ptrace"])
def test_recovery_by_signal_needs_the_documented_capabilities(missing: str) -> None:
    """dac_read_search is always given: it lets the user read this Python where root owns it."""
    given = [each for each in CAPABILITIES if each != missing]
    others = as_user(65533, "dac_read_search")
    with subprocess.Popen([*others, LISTENS], stdout=subprocess.PIPE, text=True) as triton:
        assert triton.stdout
        port = triton.stdout.readline().strip()
        done = subprocess.run(
            [*as_user(65534, *given), KILLS, port], capture_output=True, text=True, check=False
        )
        ended = triton.wait() if done.returncode == 0 else triton.poll()
        triton.kill()
    assert (ended, done.returncode) == ((None, 1) if missing else (-9, 0)), done.stderr
    assert not missing or "sidecar.runtime.errors." in done.stderr, done.stderr
