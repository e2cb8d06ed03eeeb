"""A TCP proxy in front of a server, whose connections can be reset or frozen."""

import asyncio
import contextlib
import socket
import struct

from sidecar.local.planning.ports import reserve


class Wire:
    """A TCP proxy in front of a server: `cut` acts as SIGKILL does, `frozen` as SIGSTOP does.

    With `source`, each connection to the server comes from that port.
    """

    def __init__(self, target: int, source: int = 0) -> None:
        self.frozen = False
        self._target, self._source = target, source
        self._port = 0
        self._claim = contextlib.ExitStack()
        self._transports: set[asyncio.Transport | asyncio.WriteTransport] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> int:
        """Accept connections; returns the port, which stays reserved until `close`."""
        if not self._port:
            [self._port] = self._claim.enter_context(reserve(1))
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        return self._port

    def close(self) -> None:
        """Reset all connections, and release the port."""
        self.cut()
        self._claim.close()

    def drop(self) -> None:
        """Reset every connection."""
        for transport in self._transports:
            transport.abort()
        self._transports.clear()

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        self._server.close()
        self.drop()

    async def restore(self) -> None:
        """Accept connections again on the same port, after `cut`."""
        await self.listen()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await self._connect()
        self._transports |= {writer.transport, to_server.transport}
        for source, sink in ((reader, to_server), (from_server, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not self._source:
            return await asyncio.open_connection("127.0.0.1", self._target)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Closed with a reset, so that its port can be reused at once.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.bind(("127.0.0.1", self._source))
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._target))
        return await asyncio.open_connection(sock=sock)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 18):
                while self.frozen:
                    await asyncio.sleep(0.05)
                sink.write(data)
                await sink.drain()
        sink.close()
