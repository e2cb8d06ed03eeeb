"""Listening sockets in this process's network that forward into a namespace.

This process opens the listening sockets; a process in the namespace inherits them and forwards each
connection. The two networks need neither a link nor addresses in common.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from tests.support.mesh.mesh_outside import ROOT

_CHUNK = 1 << 16
_CONNECT = 2.0  # seconds


@contextmanager
def doors(inside: Sequence[str], targets: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """A door for each of `targets`, while the context lasts; gives their `127.0.0.1:port`.

    Args:
        inside: what to put before a command so that it runs in the namespace.
        targets: addresses in the namespace for each door; who comes is led to the first that
            accepts a connection.
    """
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in targets]
    numbers = [door.fileno() for door in sockets]
    leads = [f"{n}={','.join(where)}" for n, where in zip(numbers, targets, strict=True)]
    command = [*inside, sys.executable, "-m", "tests.support.cluster.port_forwarding", *leads]
    doorman = subprocess.Popen(
        command, cwd=ROOT, pass_fds=numbers, stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield [f"127.0.0.1:{door.getsockname()[1]}" for door in sockets]
    finally:
        for door in sockets:
            door.close()
        doorman.kill()
        doorman.communicate()


async def _main(leads: Sequence[str]) -> None:
    for lead in leads:
        number, _, where = lead.partition("=")
        door = socket.socket(fileno=int(number))
        await asyncio.start_server(_Door(where.split(",")).serve, sock=door)
    # The pipe ends when the parent process does.
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)  # open connections have no owner any more


class _Door:
    def __init__(self, targets: Sequence[str]) -> None:
        self._targets = targets

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await self._connect()
        if onward is not None:
            await asyncio.gather(_pass(reader, onward[1]), _pass(onward[0], writer))
            onward[1].close()
        writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for target in self._targets:
            host, _, port = target.rpartition(":")
            with suppress(OSError):
                async with asyncio.timeout(_CONNECT):
                    return await asyncio.open_connection(host, int(port))
        return None


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    with suppress(OSError, RuntimeError):
        writer.close()  # both ways: HTTP needs no half-open connections


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:]))
