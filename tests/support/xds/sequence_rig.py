"""Sequences of a real model on two real Tritons behind a real Envoy, through `tritonclient`."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton_client
from tritonclient.utils import InferenceServerException

from sidecar.traffic.policy import DEFAULTS, Affinity, Mode, TrafficPolicy
from sidecar.xds.catalog.catalog import Instance
from sidecar.xds.catalog.policy_indexes import PolicyIndexes
from tests.support.triton_server import TritonServer
from tests.support.xds.control_plane import UNHURRIED
from tests.support.xds.waiting import PATIENCE
from tests.support.xds.wire import Wire
from tests.support.xds.xds_rig import Rig

HEADER = "x-sequence"
MODEL, NAMED = "sums", "named_sequences"


def policy(mode: Mode = Mode.ACTIVE_ACTIVE, **changes: Any) -> TrafficPolicy:
    """A traffic policy with sequence affinity."""
    affinity = Affinity(sequence_header=HEADER)
    return replace(UNHURRIED, mode=mode, affinity=affinity, **changes)


@contextmanager
def two_tritons(folder: Path) -> Iterator[tuple[TritonServer, TritonServer]]:
    """Two Tritons with the models."""
    with ExitStack() as stack:
        folders = [folder / name for name in "ab"]
        for each in folders:
            each.mkdir()
        options = ("--grpc-http2-max-ping-strikes=0",)
        first, second = (
            stack.enter_context(TritonServer.running(each, MODEL, NAMED, "blob", options=options))
            for each in folders
        )
        yield first, second


@dataclass(frozen=True, slots=True)
class Answer:
    """The sum so far, and the process that holds the sequence."""

    sum: int
    place: int


class Client:
    """A `tritonclient` client with its own connection."""

    def __init__(self, port: int) -> None:
        channel_args = [("grpc.use_local_subchannel_pool", 1)]
        self._client = triton_client.InferenceServerClient(
            f"127.0.0.1:{port}", channel_args=channel_args
        )

    async def ask(
        self,
        sequence: int,
        value: int,
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        compression_algorithm: str = "",
        **more: Any,
    ) -> Answer:
        """Send one request of a sequence; `more` are arguments of `request`."""
        found = await self._client.infer(
            **request(sequence, value, **more),
            headers={HEADER: str(sequence), **headers},
            client_timeout=PATIENCE,
            compression_algorithm=compression_algorithm or None,
        )
        return answer(found)

    async def echo(self, text: bytes) -> bytes:
        """Send a request with the header to a model without sequences."""
        tensor = triton_client.InferInput("X", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([text], dtype=np.object_))
        found = await self._client.infer("blob", [tensor], headers={HEADER: "7"})
        return bytes(found.as_numpy("Y")[0])

    async def ask_by_name(self, sequence: str, value: int, **flags: bool) -> int:
        """Send one request of a sequence with a string id; gives the sum."""
        asked = request(0, value, **flags)
        asked |= {"model_name": NAMED, "sequence_id": sequence}
        found = await self._client.infer(**asked, headers={HEADER: "named"})
        return int(found.as_numpy("SUM").flat[0])

    async def begin(self, sequences: Iterable[int]) -> dict[int, int]:
        """Start sequences, each with its own number as value; gives the place of each."""
        return {each: (await self.ask(each, each, start=True)).place for each in sequences}

    def stream(self, header: str) -> "Stream":
        """A stream, as an async context manager."""
        return Stream(self._client, header)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()


class Stream:
    """A stream on which each request waits for the answer to the one before."""

    def __init__(self, client: Any, header: str) -> None:
        self._client, self._header = client, header

    async def __aenter__(self) -> "Stream":
        self._queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        async def requests() -> AsyncIterator[dict[str, Any]]:
            while (each := await self._queue.get()) is not None:
                yield each

        self._answers = self._client.stream_infer(
            requests(), headers={HEADER: self._header}, stream_timeout=PATIENCE
        )
        return self

    async def ask(self, asked: dict[str, Any]) -> Answer | str:
        """Send a request, and wait for its answer."""
        self._queue.put_nowait(asked)
        result, error = await anext(self._answers)
        return str(error) if error else answer(result)

    async def __aexit__(self, *_: object) -> None:
        self._queue.put_nowait(None)
        async for _ in self._answers:
            pass


def request(
    sequence: int, value: int, *, start: bool = False, end: bool = False, size: int = 1
) -> dict[str, Any]:
    """The arguments of `tritonclient` for a request, whose tensor has `size` numbers."""
    numbers = np.zeros((1, size), dtype=np.int32)
    numbers[0, -1] = value
    tensor = triton_client.InferInput("VALUE", [1, size], "INT32")
    tensor.set_data_from_numpy(numbers)
    return {
        "model_name": MODEL,
        "inputs": [tensor],
        "sequence_id": sequence,
        "sequence_start": start,
        "sequence_end": end,
    }


def answer(result: Any) -> Answer:
    """The model's answer."""
    return Answer(*(int(result.as_numpy(name).flat[0]) for name in ("SUM", "PLACE")))


class SequenceScene:
    """Two Tritons, `a` and `b`, behind Envoy; `wires` are their proxies, on `ports`."""

    def __init__(self, rig: Rig, wires: dict[str, Wire], ports: dict[str, int]) -> None:
        self.rig, self.wires, self._ports = rig, wires, ports
        self._policy, self._since = DEFAULTS, PolicyIndexes()
        self.client = self.another()

    @classmethod
    @asynccontextmanager
    async def running(
        cls, tritons: tuple[TritonServer, TritonServer]
    ) -> "AsyncIterator[SequenceScene]":
        """Run it during the context, with both Tritons healthy."""
        async with Rig.running("DELTA_GRPC") as rig:
            servers = zip("ab", tritons, strict=True)
            wires = {name: Wire(int(each.grpc.rpartition(":")[2])) for name, each in servers}
            scene = cls(rig, wires, {name: await wire.listen() for name, wire in wires.items()})
            rig.stack.push_async_callback(scene.client.close)
            for wire in wires.values():
                rig.stack.callback(wire.cut)
            yield scene

    def another(self) -> Client:
        """A client with its own connection."""
        return Client(self.rig.envoy.port)

    def instance(self, name: str, **changes: Any) -> Instance:
        """One of the two instances, as the catalog shows it."""
        fake = {"a": self.rig.a, "b": self.rig.b}[name]
        return replace(fake.instance(**changes), port=self._ports[name])

    async def publish(
        self, *instances: Instance, policy: TrafficPolicy, leader: str | None = "a", healthy: int
    ) -> None:
        """Publish the catalog as Consul would show it, and wait until Envoy has it."""
        if policy != self._policy:
            written = self._since.written + 1
            self._since = self._since.changed(self._policy, policy, written)
            self._policy = policy
        self.rig.control_plane.publish(*instances, leader=leader, policy=policy, since=self._since)
        await self.rig.settled(healthy)


async def failure(asked: Any) -> str:
    """The error with which a request fails, as it must."""
    try:
        found = await asked
    except InferenceServerException as error:
        return f"{error.status()}: {error.message()}"
    raise AssertionError(f"answered: {found}")
