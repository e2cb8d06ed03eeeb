"""TCP ports of this process's network namespace that are forwarded into another one.

This process opens the listening sockets; a process in the namespace inherits them and forwards each
connection. The namespaces need neither a link nor addresses in common.

Acts: asyncio, os, socket, subprocess.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from sidecar.drill.cluster.parent import parent_ended

_CHUNK = 1 << 16
_CONNECT = 2.0  # seconds


@contextmanager
def forwarded_ports(inside: Sequence[str], targets: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """Forward a local port to each of `targets` during the context; gives each `127.0.0.1:port`.

    Args:
        inside: prefix of a command that runs it in the namespace.
        targets: for each port, addresses in the namespace; a connection is forwarded to the
            first that accepts it.
    """
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in targets]
    numbers = [each.fileno() for each in sockets]
    rules = [f"{n}={','.join(where)}" for n, where in zip(numbers, targets, strict=True)]
    command = [*inside, sys.executable, "-m", "sidecar.drill.cluster.port_forwarding", *rules]
    forwarder = subprocess.Popen(
        command, pass_fds=numbers, stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    finally:
        for each in sockets:
            each.close()
        forwarder.kill()
        forwarder.communicate()


async def _main(rules: Sequence[str]) -> None:
    for rule in rules:
        number, _, where = rule.partition("=")
        listener = socket.socket(fileno=int(number))
        await asyncio.start_server(_Forwarder(where.split(",")).serve, sock=listener)
    await parent_ended()
    os._exit(0)  # without waiting for open connections


class _Forwarder:
    def __init__(self, targets: Sequence[str]) -> None:
        self._targets = targets

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await self._connect()
        if upstream is not None:
            await asyncio.gather(_copy(reader, upstream[1]), _copy(upstream[0], writer))
            upstream[1].close()
        writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for target in self._targets:
            host, _, port = target.rpartition(":")
            with suppress(OSError):
                async with asyncio.timeout(_CONNECT):
                    return await asyncio.open_connection(host, int(port))
        return None


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    with suppress(OSError, RuntimeError):
        writer.close()  # in both directions: HTTP needs no half-open connections


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:]))
