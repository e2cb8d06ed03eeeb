"""Lossy and slow networks: a process between a namespace's link and its bridge.

It forwards frames both ways, loses a share of them and delays the others. The kernel's own netem
would do the same, but is a module that small kernels lack.

Acts: asyncio, random, socket.
"""

import asyncio
import random
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from sidecar.drill.cluster.network_namespaces import Network, NetworkNamespaces
from sidecar.drill.cluster.parent import child, parent_ended

_ALL = 0x0003  # ETH_P_ALL
_SOL_PACKET, _VNET_HEADER = 263, 15  # linux/if_packet.h
_OUTGOING = 4  # PACKET_OUTGOING: what this host itself has sent
_FRAME = 1 << 17  # bytes: a frame that the kernel segments later, with its header
_START = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Impairment:
    """The share of frames lost from and to the namespace, and seconds of delay each way."""

    loss_out: float = 0.0
    loss_in: float = 0.0
    delay: float = 0.0


@asynccontextmanager
async def impaired(
    namespaces: NetworkNamespaces, member: str, network: Network, impairment: Impairment
) -> AsyncIterator[None]:
    """Impair a namespace's connection to a network while the context lasts.

    Nothing is lost before the process forwards.

    Raises:
        Unavailable: the process does not start.
    """
    try:
        async with _forwarding(namespaces, *namespaces.tap(member, network), impairment):
            namespaces.divert(member, network)
            yield
    finally:
        namespaces.join(member, network)


@asynccontextmanager
async def _forwarding(
    namespaces: NetworkNamespaces, link: str, tap: str, impairment: Impairment
) -> AsyncIterator[None]:
    """A process that forwards between two interfaces while the context lasts."""
    numbers = (impairment.loss_out, impairment.loss_in, impairment.delay)
    program = (sys.executable, "-m", "sidecar.drill.cluster.impairment")
    command = (*namespaces.enter_hub(), *program, link, tap, *map(str, numbers))
    async with child(command, "the process that impairs a network", patience=_START):
        yield


# --- the process ------------------------------------------------------------------------------


class _Way:
    """One direction: reads frames from a socket and sends those that are not lost to another."""

    def __init__(
        self, source: socket.socket, target: socket.socket, loss: float, delay: float
    ) -> None:
        self._source, self._target, self._loss, self._delay = source, target, loss, delay
        self._chance = random.Random(0)  # noqa: S311 -- loses the same share each time
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(source, self._read)

    def _read(self) -> None:
        frame, sender = self._source.recvfrom(_FRAME)
        if sender[2] == _OUTGOING or self._chance.random() < self._loss:
            return
        if self._delay:
            self._loop.call_later(self._delay, self._send, frame)
        else:
            self._send(frame)

    def _send(self, frame: bytes) -> None:
        with suppress(OSError):  # a full queue loses a frame, as a real network does
            self._target.send(frame)


def _tapped(name: str) -> socket.socket:
    """A socket that gets and sends all frames of an interface.

    Each has a header with what the kernel has left to the network card: checksums, segments.
    """
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(_SOL_PACKET, _VNET_HEADER, 1)
    made.bind((name, _ALL))
    made.setblocking(False)
    return made


async def _main(link: str, tap: str, loss_out: float, loss_in: float, delay: float) -> None:
    near, far = _tapped(link), _tapped(tap)
    _Way(near, far, loss_out, delay)
    _Way(far, near, loss_in, delay)
    print("ready", flush=True)
    await parent_ended()


if __name__ == "__main__":
    link, tap, *numbers = sys.argv[1:]
    loss_out, loss_in, delay = map(float, numbers)
    asyncio.run(_main(link, tap, loss_out, loss_in, delay))
