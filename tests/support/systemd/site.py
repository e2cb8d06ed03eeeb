"""A deployment on one machine by the page's commands, with clients that send continuously."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.systemd import page, real
from tests.support.systemd.machine import Machine, booted

CONSUL, PLANE, ENVOY = "consul.service", "triton-sidecar-xds.service", "envoy.service"
TRITONS = tuple(f"tritonserver@{name}.service" for name in real.TRITONS)
SIDECARS = tuple(f"triton-sidecar@{name}.service" for name in real.TRITONS)
UNITS = (CONSUL, PLANE, ENVOY, *TRITONS, *SIDECARS)
# The numbers of requests and streams that must succeed for the site to be healthy again.
_ENOUGH = (200, 8)
# The user for recovery through systemd: docs/recovery.md.
_USER = "triton-sidecar:x:102:"
_BY_USER = "[Service]\nUser=triton-sidecar\n"


@dataclass(frozen=True)
class Outcome:
    """The outcome of the requests, or of the streams, so far."""

    done: int
    failed: tuple[str, ...]

    def since(self, before: "Outcome") -> tuple[str, ...]:
        """The failures since `before`."""
        return self.failed[len(before.failed) :]


class Clients:
    """The clients of tests/support/systemd/clients.py, in the network of a machine."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def sending(cls, machine: Machine) -> Iterator["Clients"]:
        """Run clients during the context."""
        program = [
            sys.executable,
            "-m",
            "tests.support.systemd.clients",
            real.ENVOY,
            real.TRITONS["0"],
        ]
        with subprocess.Popen(
            [*machine.network, *program],
            cwd=page.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield cls(process)
            finally:
                process.kill()

    def outcomes(self) -> tuple[Outcome, Outcome]:
        """The outcomes of the unary requests, and of the streams."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._outcomes()

    def end(self) -> tuple[Outcome, Outcome]:
        """Stop sending; returns the outcomes, after all requests in flight are done."""
        assert self._process.stdin
        self._process.stdin.close()
        return self._outcomes()

    def _outcomes(self) -> tuple[Outcome, Outcome]:
        assert self._process.stdout
        said = json.loads(self._process.stdout.readline())
        unary, streams = (Outcome(each["done"], tuple(each["failed"])) for each in said.values())
        return unary, streams


@dataclass(frozen=True)
class Site:
    """The machine, and a token that may read the mesh."""

    machine: Machine
    operator: str

    def look(self) -> Any:
        """The output of `triton-sidecar list`."""
        return self.command("list", "--json")

    def command(self, *argv: str) -> Any:
        """The output of one of our commands; an empty object if it failed."""
        program = ("/usr/local/bin/triton-sidecar", *argv)
        given = f"CONSUL_HTTP_TOKEN={self.operator}"
        return json.loads(self.machine.run("env", given, *program, check=False) or "{}")

    def primary(self) -> str:
        """The name of the primary."""
        return str(self.look()["primary"]).removeprefix("triton-")

    def pid(self, unit: str) -> str:
        """The main pid of the service; empty if it is not running."""
        return self.machine.units(unit)[unit].pid

    def systemctl(self, *argv: str) -> None:
        """Run systemctl; raises if it fails."""
        self.machine.run("systemctl", *argv)

    def signal(self, unit: str, name: str) -> None:
        """Send a signal to a service from outside, and wait until it has restarted."""
        before = self.pid(unit)
        self.machine.run("kill", f"-{name}", before)
        self.machine.wait(f"{unit} runs again", lambda: self.pid(unit) not in ("", before))

    def well(self) -> bool:
        """Whether everything is running, and both instances are usable."""
        if not all(each.pid for each in self.machine.units(*UNITS).values()):
            return False
        seen = self.look()
        rows = seen.get("instances", ())
        both = [row["verdict"] for row in rows] == ["passing"] * len(TRITONS)
        return both and seen["primary"] in {row["id"] for row in rows}

    def settle(self, clients: Clients) -> None:
        """Wait until the site is healthy, and has been for many requests."""
        self.machine.wait("all is well", self.well)
        was = clients.outcomes()

        def answered() -> bool:
            now = clients.outcomes()
            return all(n.done >= w.done + e for n, w, e in zip(now, was, _ENOUGH, strict=True))

        self.machine.wait("requests are answered", answered)
        self.machine.wait("all is still well", self.well)


def run(machine: Machine, block: str, **environment: str) -> str:
    """Run commands of the page in the checkout; returns their output."""
    given = " ".join(f"{name}={value}" for name, value in environment.items())
    before = f"export PATH=/usr/local/bin:$PATH EDITOR=/root/editor {given}; cd /root/checkout"
    return machine.run("sh", "-euc", f"{before}\n{block}")


@contextmanager
def deployed(root: Path, folder: Path) -> Iterator[Site]:
    """Boot a machine and deploy to it by the page; it ends with the context."""
    files = folder / "files"
    shown = real.lay(files)
    with booted(root, files, folder / "console", shown) as machine:
        operator = _grant(machine)
        machine.run("sh", "-c", f"echo '{_USER}102::/:/usr/sbin/nologin' >>/etc/passwd")
        machine.run("sh", "-c", f"echo '{_USER}' >>/etc/group")
        machine.write("/etc/systemd/system/triton-sidecar@.service.d/user.conf", _BY_USER)
        second = page.GPU.replace("/0.", "/1.").replace("@0", "@1")
        for block in (page.GPU, second, page.EDGE):
            run(machine, block)
        site = Site(machine, operator)
        machine.wait("all is well", site.well)
        yield site


def _grant(machine: Machine) -> str:
    """Bootstrap Consul's ACLs by the page; returns an operator's token."""
    machine.run("systemctl", "enable", "--now", CONSUL)
    said: list[str] = []

    def bootstrapped() -> bool:
        said[:] = _secrets(machine.run("/usr/local/bin/consul", "acl", "bootstrap", check=False))
        return bool(said)

    machine.wait("Consul has a leader", bootstrapped)
    *block, last = page.ACCESS.strip().splitlines()
    of = _secrets(run(machine, "\n".join(block), CONSUL_HTTP_TOKEN=said[0]))
    sidecars, planes, operator, drill, agent = of
    run(machine, last.replace("<its SecretID>", agent), CONSUL_HTTP_TOKEN=said[0])
    machine.write("/root/checkout/token", sidecars)
    machine.write("/root/checkout/xds-token", planes)
    machine.write("/root/checkout/drill-token", drill)
    return operator


def _secrets(printed: str) -> list[str]:
    return re.findall(r"(?m)^SecretID: +(\S+)$", printed)


Action = Callable[[Site, str], object]
