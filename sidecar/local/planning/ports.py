"""Free ports, reserved for one mesh from the moment it is planned.

Ports are drawn below the ephemeral range, which the kernel uses for outgoing connections: a
restarting server must not find its port taken by a client. Testing whether a port can be bound is
not enough, because another mesh may be planned at the same moment, or be restarting the server of
that port. So each port is also claimed by binding an abstract Unix socket named after it, which
one process per network namespace can hold, until it dies.

Acts: random, socket.
"""

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sidecar.runtime.errors import Unavailable

_LOWEST = 10240
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def candidates(ephemeral_low: int) -> range:
    """The ports to draw from, given the lowest ephemeral one."""
    if ephemeral_low - _LOWEST < 1000:  # a machine tuned to have few other ports
        return range(_LOWEST, 65536)
    return range(_LOWEST, ephemeral_low)


def in_use(port: int) -> bool:
    """Whether a server listens on this loopback port, with TCP or UDP."""
    return not (_binds(port, socket.SOCK_STREAM, True) and _binds(port, socket.SOCK_DGRAM, False))


@contextmanager
def reserve(count: int) -> Iterator[tuple[int, ...]]:
    """`count` distinct free ports that no other mesh will draw while the context lasts.

    Raises:
        Unavailable: that many could not be found.
    """
    ports = list(candidates(int(_RANGE.read_text().split()[0])))
    random.Random().shuffle(ports)  # SystemRandom takes a tenth of a second for that
    with ExitStack() as claims:
        found: list[int] = []
        for port in ports:
            if len(found) == count:
                break
            claim = _claim(port)
            if claim is None:
                continue
            if _free(port):
                claims.enter_context(claim)
                found.append(port)
            else:
                claim.close()
        if len(found) < count:
            raise Unavailable(f"{count} free ports are needed on 127.0.0.1, found {len(found)}")
        yield tuple(found)


def _claim(port: int) -> socket.socket | None:
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0triton-sidecar-port-{port}")
    except OSError:
        claim.close()
        return None
    return claim


def _free(port: int) -> bool:
    # Without SO_REUSEADDR, so that connections in TIME_WAIT count too.
    return _binds(port, socket.SOCK_STREAM, False) and _binds(port, socket.SOCK_DGRAM, False)


def _binds(port: int, kind: socket.SocketKind, reuse: bool) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        if reuse:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
