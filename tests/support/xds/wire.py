"""A TCP proxy in front of a server, whose connections can be cut or frozen."""

import asyncio
import contextlib
import socket
import struct

from sidecar.local.planning.ports import reserve


class Wire:
    """The network in front of a server: it can be cut, as by SIGKILL, or frozen, as by SIGSTOP.

    With `source` each connection to the server comes from that port.
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
        """Cut all connections for good."""
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

    async def mend(self) -> None:
        """After a cut: accept connections again, where they were accepted before."""
        await self.listen()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, outward = await self._reach()
        self._transports |= {writer.transport, outward.transport}
        for source, sink in ((reader, outward), (onward, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not self._source:
            return await asyncio.open_connection("127.0.0.1", self._target)
        own = socket.socket()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # It is reset when it ends, so that its port can be used again at once.
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        own.bind(("127.0.0.1", self._source))
        own.setblocking(False)
        await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", self._target))
        return await asyncio.open_connection(sock=own)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 18):
                while self.frozen:
                    await asyncio.sleep(0.05)
                sink.write(data)
                await sink.drain()
        sink.close()
