"""gRPC clients of Envoy: a client for single requests, and load in a closed loop."""

import asyncio
from collections import Counter
from typing import Any

import grpc
import grpc.aio

from tests.support.xds.fake_tritons import INFER, STREAM, UNLIMITED, UNLOAD
from tests.support.xds.waiting import PATIENCE, eventually

# Bytes; servers keep gRPC's own limits.
_LARGE_TRAILERS = [
    ("grpc.max_metadata_size", 1 << 23),
    ("grpc.absolute_max_metadata_size", 1 << 23),
]


class Client:
    """A plain gRPC client of the Envoy at `port`, or else of the one at `also`."""

    def __init__(self, port: int, authority: str = "", also: int = 0) -> None:
        # The generated stubs have no calls with raw bytes.
        named = [("grpc.default_authority", authority)] if authority else []
        options: list[tuple[str, Any]] = [*UNLIMITED, *_LARGE_TRAILERS, *named]
        target = f"ipv4:127.0.0.1:{port},127.0.0.1:{also}" if also else f"127.0.0.1:{port}"
        self._channel = grpc.aio.insecure_channel(target, options=options)
        self.infer: Any = self._channel.unary_unary(INFER)  # type: ignore[call-arg]
        self.stream: Any = self._channel.stream_stream(STREAM)  # type: ignore[call-arg]
        self.unload: Any = self._channel.unary_unary(UNLOAD)  # type: ignore[call-arg]

    async def answered_by(self, request: bytes = b"x", **headers: str) -> str:
        """The name of the instance that answers; `_` in a header's name stands for `-`."""
        answer: bytes = await self.infer(
            request,
            timeout=PATIENCE,
            metadata=[(name.replace("_", "-"), value) for name, value in headers.items()],
        )
        return answer.decode().partition(":")[0]

    async def count(self, requests: int, **headers: str) -> Counter[str]:
        """Send requests one after the other; returns how many each instance answered."""
        return Counter([await self.answered_by(b"x", **headers) for _ in range(requests)])

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)


class Load:
    """Closed-loop clients that count answers by instance, and record failures as text.

    Each client waits `pause` seconds between an answer and its next request.
    """

    def __init__(self, client: Client, clients: int, pause: float = 0.0) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._client, self._pause = client, pause
        self._tasks = [asyncio.create_task(self._run()) for _ in range(clients)]
        self._done = False

    async def _run(self) -> None:
        while not self._done:
            try:
                self.answers[await self._client.answered_by()] += 1
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{error.code()}: {error.details()}")
            if self._pause:
                await asyncio.sleep(self._pause)

    async def more(self, count: int, by: str | None = None) -> None:
        """Wait for `count` more answers, of any instance or of one."""
        start = self.answers[by] if by else self.answers.total()
        await eventually(
            lambda: (self.answers[by] if by else self.answers.total()) >= start + count,
            f"{count} more answers",
        )

    async def stop(self) -> None:
        """Stop after each client's request in flight."""
        self._done = True
        await asyncio.gather(*self._tasks)
