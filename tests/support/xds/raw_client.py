"""Raw HTTP/2 that gRPC would not send: a client that never widens its windows, and a server."""

import asyncio
import contextlib
import struct
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK, END_STREAM, END_HEADERS = 1, 1, 4
INTERNAL_ERROR, CANCEL = 2, 8


class RawClient:
    """One connection. It never widens a window: streams get 64 KiB each, and in total.

    `received` is the number of data bytes received; `ended` are the streams that ended, and `gone`
    is whether the connection is closed.
    """

    def __init__(self) -> None:
        self.received, self.gone = 0, False
        self.ended: set[int] = set()
        self._next = 1

    async def connect(self, port: int) -> Self:
        """Connect, and send the HTTP/2 preface."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        self._writer.write(PREFACE + _frame(SETTINGS, 0, 0, b""))
        self._task = asyncio.create_task(self._listen())
        return self

    async def close(self) -> None:
        """Close the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._writer.close()

    def request(
        self, path: str, content: bytes, *, end: bool = True, piece: int = 16_384, body: bool = True
    ) -> int:
        """Send a request, or only its beginning, in pieces; gives its stream.

        One without a `body` ends with its headers.
        """
        stream, self._next = self._next, self._next + 2
        flags = END_HEADERS if body else END_HEADERS | END_STREAM
        self._writer.write(_frame(HEADERS, flags, stream, _headers(path)))
        if not body:
            return stream
        for at in range(0, len(content), piece):
            self._writer.write(_frame(DATA, 0, stream, content[at : at + piece]))
        if end:
            self._writer.write(_frame(DATA, END_STREAM, stream, b""))
        return stream

    def cancel(self, stream: int) -> None:
        """Cancel a request."""
        self._writer.write(_frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL)))

    async def _listen(self) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await self._reader.readexactly(9)
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
                payload = await self._reader.readexactly(int.from_bytes(head[:3]))
                self._take(kind, flags, stream, payload)
        self.gone = True

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (SETTINGS, PING) and not flags & ACK:
            self._writer.write(_frame(kind, ACK, 0, payload if kind == PING else b""))
        if kind == DATA:
            self.received += len(payload)
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            self.ended.add(stream)


async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve a connection on which every request is reset."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        await reader.readexactly(len(PREFACE))
        writer.write(_frame(SETTINGS, 0, 0, b""))
        while True:
            head = await reader.readexactly(9)
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
            payload = await reader.readexactly(int.from_bytes(head[:3]))
            if kind in (SETTINGS, PING) and not flags & ACK:
                writer.write(_frame(kind, ACK, 0, payload if kind == PING else b""))
            if kind == HEADERS:
                writer.write(_frame(RST_STREAM, 0, stream, struct.pack(">I", INTERNAL_ERROR)))
    writer.close()


def message(content: bytes) -> bytes:
    """A message with gRPC's length prefix."""
    return struct.pack(">BI", 0, len(content)) + content


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    length = len(payload).to_bytes(3)
    return length + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _headers(path: str) -> bytes:
    """An HPACK block without compression."""
    found = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "triton",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in found.items())


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()
