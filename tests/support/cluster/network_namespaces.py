"""Network namespaces on two networks, each of which can be cut off from either.

Processes that end with this one hold the namespaces: nothing changes in the machine's own network
or in /run/netns, and names cannot clash with those of another cluster.
"""

import os
import subprocess
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from sidecar.runtime.errors import PartMissing

Network = Literal["consul", "data"]
NETWORKS: tuple[Network, ...] = ("consul", "data")
_SUBNETS: Mapping[Network, str] = {"consul": "10.1.0", "data": "10.2.0"}
_HUB = "hub"


@dataclass(frozen=True, slots=True)
class Member:
    """A namespace to be: the last number of its addresses, and the networks that it is on."""

    name: str
    number: int
    networks: tuple[Network, ...]

    def address(self, network: Network) -> str:
        """Its IP address on a network."""
        return f"{_SUBNETS[network]}.{self.number}"


class Fabric:
    """The namespaces of the members. The networks are bridges in one more, the hub."""

    def __init__(self) -> None:
        self._holders: dict[str, subprocess.Popen[bytes]] = {}

    def enter(self, name: str) -> tuple[str, ...]:
        """What to put before a command so that it runs in a namespace, as the same process."""
        into: tuple[str, ...] = (f"--net=/proc/{self._holders[name].pid}/ns/net",)
        if os.geteuid():
            owner = f"--user=/proc/{self._holders[_HUB].pid}/ns/user"
            into = (owner, "--preserve-credentials", *into)
        return ("nsenter", *into, "--")

    def build(self, members: Iterable[Member]) -> None:
        """Create the hub and the members' namespaces, and wire them.

        Raises:
            PartMissing: namespaces cannot be had here; says what it takes.
        """
        self._hold(_HUB, ("unshare", *(("--user", "--map-root-user") if os.geteuid() else ())))
        self._ip(_HUB, *(f"link add {network} type bridge" for network in NETWORKS))
        self._ip(_HUB, *(f"link set {network} up" for network in NETWORKS))
        for member in members:
            inside = (*self.enter(_HUB), "unshare") if os.geteuid() else ("unshare",)
            pid = self._hold(member.name, inside)
            self._ip(member.name, "link set lo up")
            for network in member.networks:
                leg = _leg(member.name, network)
                self._ip(
                    _HUB,
                    f"link add {leg} type veth peer name {network} netns {pid}",
                    f"link set {leg} master {network} up",
                )
                self._ip(
                    member.name,
                    f"address add {member.address(network)}/24 dev {network}",
                    f"link set {network} up",
                )

    def cut(self, name: str, network: Network) -> None:
        """Drop every packet between a namespace and a network, silently."""
        # A link taken down would be noticed on its other end.
        self._ip(_HUB, f"link set {_leg(name, network)} nomaster")

    def join(self, name: str, network: Network) -> None:
        """Undo `cut`; nothing happens if nothing was cut."""
        self._ip(_HUB, f"link set {_leg(name, network)} master {network}")

    def close(self) -> None:
        """Let go of the namespaces; they vanish with the last process in them."""
        for holder in self._holders.values():
            holder.kill()
            holder.communicate()
        self._holders.clear()

    def _hold(self, name: str, unshare: tuple[str, ...]) -> int:
        """Start the process that is a namespace's holder, and give its pid."""
        # It ends when the pipe does, so at the latest with this process.
        command = (*unshare, "--net", "cat")
        try:
            holder = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise _refused(command, str(error)) from error
        self._holders[name] = holder
        said, complaint = _first_line(holder)
        if said != b"\n":  # what answers is `cat`: the namespace is there
            raise _refused(command, complaint)
        return holder.pid

    def _ip(self, name: str, *commands: str) -> None:
        command = (*self.enter(name), "ip", "-batch", "-")
        text = "\n".join(commands)
        try:
            done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        except OSError as error:
            raise _refused(command, str(error)) from error
        if done.returncode:
            raise _refused(command, f"{done.stderr.strip()} ({text})")


@asynccontextmanager
async def fabric(members: Iterable[Member]) -> AsyncIterator[Fabric]:
    """The members' namespaces, while the context lasts."""
    made = Fabric()
    try:
        made.build(members)
        yield made
    finally:
        made.close()


def _first_line(holder: subprocess.Popen[bytes]) -> tuple[bytes, str]:
    """What `cat` answers to an empty line, and what was complained of if nothing."""
    assert holder.stdin
    assert holder.stdout
    assert holder.stderr
    with suppress(BrokenPipeError):
        holder.stdin.write(b"\n")
        holder.stdin.flush()
    said = holder.stdout.readline()
    return said, "" if said else holder.stderr.read().decode().strip()


def _leg(name: str, network: Network) -> str:
    """The bridge's end of a member's cable. The kernel allows 15 characters."""
    return f"{name}.{network}"


def _refused(command: Iterable[str], why: str) -> PartMissing:
    return PartMissing(
        f"network namespaces: `{' '.join(command)}`: {why}\n"
        "  The cluster tests need iproute2 and util-linux, and either root or unprivileged user "
        "namespaces. Run them as root, or allow those "
        "(sysctl kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu)."
    )
