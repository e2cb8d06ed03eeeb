"""Network namespaces on two bridged networks, each of which can be disconnected from either.

Child processes hold the namespaces and end with this process: nothing changes in the machine's
own network or in /run/netns, and names cannot clash with those of another cluster.

Acts: os, subprocess.
"""

import os
import subprocess
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from sidecar.drill.cluster.holder import Holder
from sidecar.runtime.errors import PartMissing, Unavailable

Network = Literal["consul", "data"]
NETWORKS: tuple[Network, ...] = ("consul", "data")
_SUBNETS: Mapping[Network, str] = {"consul": "10.1.0", "data": "10.2.0"}
_HUB = "hub"


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace: the last octet of its addresses, and the networks that it is on."""

    name: str
    number: int
    networks: tuple[Network, ...]

    def address(self, network: Network) -> str:
        """Its IP address on a network."""
        return f"{_SUBNETS[network]}.{self.number}"


class NetworkNamespaces:
    """The running namespaces. The networks are bridges in a separate one, the hub."""

    def __init__(self) -> None:
        self._holders: dict[str, Holder] = {}
        self._taps: set[str] = set()

    def enter(self, name: str) -> tuple[str, ...]:
        """Prefix of a command that runs it in a namespace, in the same process."""
        into: tuple[str, ...] = (f"--net=/proc/{self._holders[name].pid}/ns/net",)
        if os.geteuid():
            owner = f"--user=/proc/{self._holders[_HUB].pid}/ns/user"
            into = (owner, "--preserve-credentials", *into)
        return ("nsenter", *into, "--")

    def build(self, members: Iterable[Namespace]) -> None:
        """Create the hub and the namespaces, and connect them.

        Raises:
            PartMissing: namespaces cannot be created here; says what is required.
        """
        self._hold(_HUB, ("unshare", *(("--user", "--map-root-user") if os.geteuid() else ())))
        self._ip(_HUB, *(f"link add {network} type bridge" for network in NETWORKS))
        self._ip(_HUB, *(f"link set {network} up" for network in NETWORKS))
        for member in members:
            inside = (*self.enter(_HUB), "unshare") if os.geteuid() else ("unshare",)
            pid = self._hold(member.name, inside)
            self._ip(member.name, "link set lo up")
            for network in member.networks:
                link = _link(member.name, network)
                self._ip(
                    _HUB,
                    f"link add {link} type veth peer name {network} netns {pid}",
                    f"link set {link} master {network} up",
                )
                self._ip(
                    member.name,
                    f"address add {member.address(network)}/24 dev {network}",
                    f"link set {network} up",
                )

    def cut(self, name: str, network: Network) -> None:
        """Drop every packet between a namespace and a network."""
        # The other end would notice a link that is down.
        self._ip(_HUB, f"link set {_link(name, network)} nomaster")

    def join(self, name: str, network: Network) -> None:
        """Undo `cut`, `tap` and `divert`; a connected namespace stays connected."""
        tap = _tap(name, network)
        if tap in self._taps:
            self._ip(_HUB, f"link delete {tap}")
            self._taps.remove(tap)
        self._ip(_HUB, f"link set {_link(name, network)} master {network}")

    def tap(self, name: str, network: Network) -> tuple[str, str]:
        """Create a tap, for a process in the hub that forwards between two interfaces.

        Gives their names: the namespace's link, and the tap. Nothing changes before `divert`.
        """
        tap = _tap(name, network)
        self._ip(_HUB, f"link add {tap} type veth peer name {_peer(tap)}")
        self._taps.add(tap)
        self._ip(_HUB, f"link set {_peer(tap)} up", f"link set {tap} up")
        return _link(name, network), tap

    def divert(self, name: str, network: Network) -> None:
        """Connect a namespace through its tap alone."""
        self._ip(
            _HUB,
            f"link set {_link(name, network)} nomaster",
            f"link set {_peer(_tap(name, network))} master {network}",
        )

    def enter_hub(self) -> tuple[str, ...]:
        """Prefix of a command that runs it where the bridges are."""
        return self.enter(_HUB)

    def close(self) -> None:
        """End the holders; the kernel removes each namespace with the last process in it."""
        for holder in self._holders.values():
            holder.end()
        self._holders.clear()

    def _hold(self, name: str, unshare: tuple[str, ...]) -> int:
        """Start the process that holds a namespace; gives its pid."""
        command = (*unshare, "--net", "cat")
        try:
            self._holders[name] = Holder(command)
        except Unavailable as error:
            raise _unavailable(command, str(error)) from error
        return self._holders[name].pid

    def _ip(self, name: str, *commands: str) -> None:
        command = (*self.enter(name), "ip", "-batch", "-")
        text = "\n".join(commands)
        try:
            done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        except OSError as error:
            raise _unavailable(command, str(error)) from error
        if done.returncode:
            raise _unavailable(command, f"{done.stderr.strip()} ({text})")


@asynccontextmanager
async def network_namespaces(
    members: Iterable[Namespace],
) -> AsyncIterator[NetworkNamespaces]:
    """Create namespaces, and remove them when the context ends."""
    made = NetworkNamespaces()
    try:
        made.build(members)
        yield made
    finally:
        made.close()


def _link(name: str, network: Network) -> str:
    """The name of the bridge's end of a namespace's veth pair; the kernel allows 15 characters."""
    return f"{name}.{network}"


def _unavailable(command: Iterable[str], why: str) -> PartMissing:
    return PartMissing(
        f"network namespaces: `{' '.join(command)}`: {why}\n"
        "  The cluster tests need iproute2 and util-linux, and either root or unprivileged user "
        "namespaces. Run them as root, or allow those "
        "(sysctl kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu)."
    )


def _tap(member: str, network: Network) -> str:
    return f"t{network[0]}.{member}"


def _peer(tap: str) -> str:
    """The bridge's end of a tap."""
    return f"{tap}.b"
