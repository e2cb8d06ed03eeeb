"""Three fake Tritons that a query of death crashes, a client that sends it, and other clients."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2

from sidecar.traffic.policy import Connection, Mode, TrafficPolicy
from sidecar.xds.catalog.catalog import Health
from tests.support.xds.control_plane import UNHURRIED
from tests.support.xds.fake_tritons import FakeTriton
from tests.support.xds.grpc_clients import Client
from tests.support.xds.waiting import PATIENCE, eventually
from tests.support.xds.xds_rig import Rig

_PB2: Any = service_pb2
MODEL = "chat"
POISON = b"take it down"
LONG = b"think about it"
ENDLESS = b"say it again and again"
CUT = "INTERNAL: Stream removed"
REFUSED = "this request has taken down "
NOT_RETRIED = "UNAVAILABLE: two instances went down with this request"
_AWAY = 1.0  # seconds until a crashed instance is back
_WORK, _LONG = 0.005, 0.1  # seconds that a request takes, and a long one
_PATIENCE = 60.0
# Envoy pings a frozen Triton, and closes the connection after 3 s.
PINGING = replace(UNHURRIED, connection=Connection(keepalive_timeout=3.0))


class CrashingTriton(FakeTriton):
    """A fake Triton that crashes on a poisonous request, or freezes if the scene says so."""

    def __init__(self, name: str, scene: "CrashScene") -> None:
        super().__init__(name)
        self._scene = scene
        self.immune = False

    async def infer(self, request: bytes, context: Any) -> bytes:
        await asyncio.sleep(_WORK)
        if self._scene.losing:  # with its sidecar, permanently
            self._scene.losing -= 1
            await self._sidecar.stop(None)
            self.wire.cut()
            await asyncio.sleep(_PATIENCE)
        if self.name not in self._scene.down and POISON in request and not self.immune:
            self._scene.fell(self)
            await asyncio.sleep(_PATIENCE)
        return await super().infer(request, context)

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answer all requests concurrently, as Triton does."""
        self.streams += 1
        answers: asyncio.Queue[bytes | None] = asyncio.Queue()
        reader = asyncio.create_task(self._read(requests, answers))
        try:
            while (answer := await answers.get()) is not None:
                yield answer
        finally:
            reader.cancel()

    async def _read(
        self, requests: AsyncIterator[bytes], answers: "asyncio.Queue[bytes | None]"
    ) -> None:
        async def work(request: bytes) -> None:
            await asyncio.sleep(_LONG if LONG in request else _WORK)
            if self.name not in self._scene.down and POISON in request and not self.immune:
                self._scene.fell(self)
                await asyncio.sleep(_PATIENCE)
            answers.put_nowait(_stream_answer(request, self.name))
            while ENDLESS in request:
                await asyncio.sleep(_LONG)
                answers.put_nowait(_stream_answer(request, self.name))

        async with asyncio.TaskGroup() as tasks:
            async for request in requests:
                tasks.create_task(work(request))
        answers.put_nowait(None)


def _stream_answer(request: bytes, name: str) -> bytes:
    asked, found = _PB2.ModelInferRequest.FromString(request), _PB2.ModelStreamInferResponse()
    found.infer_response.id = asked.id  # as Triton does, also for an error
    if asked.model_name == MODEL:
        found.infer_response.model_name = name
        found.infer_response.raw_output_contents.append(sha256(request).digest())
    else:
        found.error_message = f"Request for unknown model: '{asked.model_name}' is not found"
    return bytes(found.SerializeToString())


def infer_request(text: bytes, name: str = "") -> bytes:
    """A client's request to the model, with an id."""
    message = _PB2.ModelInferRequest(model_name=MODEL, id=name, raw_input_contents=[text])
    return bytes(message.SerializeToString())


async def stream_answers(
    client: Client, *messages: bytes, timeout: float = PATIENCE, answers: int = 0, **how: Any
) -> list[str]:
    """Open a stream; returns each answer's instance or error, and last the stream's failure.

    The client cancels after `answers` answers. Each answer must be to a message that was sent.
    """
    received: list[str] = []
    hashes = {sha256(message).digest() for message in messages}
    call = client.stream(iter(messages), timeout=timeout, **how)
    try:
        async for answer in call:
            found = _PB2.ModelStreamInferResponse.FromString(answer)
            assert hashes.issuperset(found.infer_response.raw_output_contents)
            received.append(found.error_message or found.infer_response.model_name)
            if len(received) == answers:
                call.cancel()
                break
    except grpc.aio.AioRpcError as error:
        received.append(f"{error.code().name}: {error.details()}")
    return received


@dataclass
class CrashScene:
    """The rig and its outcome: crashes by instance, and the answers to clients."""

    rig: Rig
    freezes: bool = False
    leader: str = "a"
    falls: Counter[str] = field(default_factory=Counter)
    down: set[str] = field(default_factory=set)
    tritons: dict[str, CrashingTriton] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    answers: int = 0
    policy: TrafficPolicy = UNHURRIED
    gone_for_good: bool = False
    losing: int = 0
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    def fell(self, triton: CrashingTriton) -> None:
        """Take an instance down; it restarts automatically."""
        self.falls[triton.name] += 1
        self.down.add(triton.name)
        task = asyncio.create_task(self._fall(triton))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fall(self, triton: CrashingTriton) -> None:
        if self.freezes:
            triton.wire.frozen = True
            await asyncio.sleep(_AWAY)
        triton.serving = False
        triton.wire.cut()
        self.publish()
        if self.gone_for_good:
            return
        await asyncio.sleep(_AWAY)
        triton.wire.frozen = False
        await triton.wire.restore()
        triton.serving = True
        self.down.discard(triton.name)
        self.publish()

    async def end(self) -> None:
        """Stop restarting crashed instances."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def join(self, name: str) -> None:
        """Start another instance, which restarts after each crash."""
        self.gone_for_good = False
        triton = CrashingTriton(name, self)
        await triton.start()
        self.rig.stack.push_async_callback(triton.stop)
        self.tritons[name] = triton
        self.publish()

    def publish(self) -> None:
        """Publish the catalog: a crashed instance is critical, and loses the role."""
        if self.leader in self.down:
            self.leader = min(self.tritons.keys() - self.down, default=self.leader)
        self.rig.control_plane.publish(
            *(
                each.instance(health=Health.CRITICAL if each.name in self.down else Health.PASSING)
                for each in self.tritons.values()
            ),
            leader=self.leader,
            epoch=1 + self.falls.total(),
            policy=self.policy,
        )

    async def good(self, client: Client, until: asyncio.Event) -> None:
        """Send distinct requests, one after another."""
        while not until.is_set():
            try:
                await client.infer(os.urandom(64), timeout=_PATIENCE)
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{error.code().name}: {error.details()}")
            else:
                self.answers += 1

    async def follows(self, client: Client, until: asyncio.Event) -> None:
        """Open streams one after another, each for one answer.

        A stream that has its first answer cannot be retried, so a cut one is no failure.
        """
        while not until.is_set():
            first, *_ = await stream_answers(
                client, infer_request(os.urandom(64)), timeout=_PATIENCE
            )
            if first in self.tritons:
                self.answers += 1
            elif not first.startswith(CUT):
                self.failures.append(first)

    async def bad(self, until: asyncio.Event, timeout: float, *, streams: bool = False) -> None:
        """Send the poisonous request repeatedly, each time on a new connection."""
        while not until.is_set():
            client = Client(self.rig.envoy.port)
            if streams:
                self.refusals += await stream_answers(
                    client, infer_request(POISON), timeout=timeout
                )
            else:
                try:
                    await client.infer(POISON, timeout=timeout)
                except grpc.aio.AioRpcError as error:
                    self.refusals.append(f"{error.code().name}: {error.details()}")
            await client.close()

    async def run(
        self, goods: int, refusals: int, *, timeout: float = _PATIENCE, streams: bool = False
    ) -> None:
        """Run good clients and a bad one until the bad one has been rejected `refusals` times.

        With `streams`, the bad client and half of the good ones open streams.
        """
        until = asyncio.Event()
        channels = [Client(self.rig.envoy.port) for _ in range(4)]
        tasks = [
            asyncio.create_task(
                (self.follows if streams and number % 2 else self.good)(channels[number % 4], until)
            )
            for number in range(goods)
        ]
        await eventually(lambda: self.answers > goods, "all are at work")
        tasks.append(asyncio.create_task(self.bad(until, timeout, streams=streams)))
        await eventually(lambda: self.refused >= refusals, "it is refused")
        until.set()
        await asyncio.gather(*tasks)
        for channel in channels:
            await channel.close()

    @property
    def left(self) -> CrashingTriton:
        """The only instance that has not crashed."""
        [found] = self.tritons.keys() - self.falls.keys()
        return self.tritons[found]

    @property
    def refused(self) -> int:
        """How many requests of the bad client Envoy rejected as quarantined."""
        return sum(REFUSED in each for each in self.refusals)


@asynccontextmanager
async def crash_scene(
    quarantine: float = 600.0, freezes: bool = False, policy: TrafficPolicy = UNHURRIED
) -> "AsyncGenerator[CrashScene]":
    """Run it during the context: `a` is primary, `b` and `c` are standbys."""
    async with Rig.running("DELTA_GRPC", quarantine=quarantine) as rig:
        made = CrashScene(rig, freezes, policy=policy)
        for name in ("a", "b", "c"):
            await made.join(name)
        await rig.settled(hosts=1 if policy.mode is Mode.STRICT else 3)
        try:
            yield made
        finally:
            await made.end()


async def script_errors(made: CrashScene) -> int:
    """The number of errors of Envoy's Lua script."""
    page = await made.rig.envoy.get("/stats?filter=lua.quarantine.errors")
    [line] = page.splitlines()
    return int(line.rpartition(":")[2])
