"""Separate processes of the control plane's benchmark: ADS clients, and a counting TCP proxy.

A client behaves on its stream as Envoy does: incremental, all clusters and listeners, then by name
the endpoints and routes that those refer to; it acknowledges every reply, and reconnects with the
versions that it has, after the back-off of envoy/bootstrap.yaml. It is cheaper than Envoy in one
respect: it does not parse responses, beyond one parse per version in the whole process.
"""

import asyncio
import contextlib
import multiprocessing
import random
import time
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection
from typing import Any

import grpc
import grpc.aio
from envoy.config.core.v3 import health_check_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.discovery.v3 import discovery_pb2

from benchmarks.report import quantile
from benchmarks.xds_parts import PATIENCE, SERVICE
from sidecar.runtime.errors import Unavailable
from sidecar.xds.config import routes
from sidecar.xds.config.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE

_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a separate connection for each client
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),
)
_BASE, _LONGEST = 0.1, 2.0  # seconds of back-off


class Child:
    """A process with a command pipe; `work` gets the other end and runs in its own event loop."""

    def __init__(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(work, theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, *command: Any) -> None:
        """Send a command."""
        self._pipe.send(command)

    async def receive(self) -> Any:
        """The next answer.

        Raises:
            Unavailable: there is none within the deadline.
        """
        if not await asyncio.to_thread(self._pipe.poll, PATIENCE):
            raise Unavailable(f"no answer of the clients within {PATIENCE:g} s")
        return self._pipe.recv()

    def end(self) -> None:
        """Stop the process."""
        self._process.kill()
        self._process.join()


def _run(work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
    asyncio.run(work(*arguments))


async def _commands(pipe: Connection, obey: Callable[..., None]) -> None:
    """Run the commands that arrive on the pipe until the other end is closed."""
    closed, loop = asyncio.Event(), asyncio.get_running_loop()

    def readable() -> None:
        try:
            obey(*pipe.recv())
        except EOFError:
            loop.remove_reader(pipe.fileno())
            closed.set()

    loop.add_reader(pipe.fileno(), readable)
    await closed.wait()


# --- clients --------------------------------------------------------------------------------


def _counted(data: bytes) -> tuple[int, Any]:
    return len(data), discovery_pb2.DeltaDiscoveryResponse.FromString(data)


class Client:
    """One ADS client. `endpoints` is the last version that it acknowledged, and `at` the time."""

    def __init__(self, address: str, number: int, confirmed: Callable[[Any], None]) -> None:
        self.endpoints = ""
        self.at = self.opened = 0.0
        self.received = 0  # bytes
        self._body: Any = None
        self._address = address
        self._node = f"bench-{number:04}"
        self._confirmed = confirmed
        self._versions: dict[str, dict[str, str]] = {}
        self._channel: grpc.aio.Channel | None = None
        self._losing = False

    async def run(self) -> None:
        """Follow the control plane until cancelled."""
        failures = 0
        while True:
            began = time.monotonic()
            self._channel = grpc.aio.insecure_channel(self._address, options=_OPTIONS)
            self._losing = False
            try:
                await self._follow(self._channel)
            except (grpc.aio.AioRpcError, grpc.aio.UsageError):
                pass  # the control plane is gone
            except asyncio.CancelledError:  # the error of a call whose channel was closed
                if not self._losing:
                    raise
            await self._channel.close(None)
            failures = 0 if self.opened >= began else failures + 1
            await asyncio.sleep(random.uniform(0, min(_LONGEST, _BASE * 2**failures)))

    async def cut(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            self._losing = True
            await self._channel.close(None)

    async def _follow(self, channel: grpc.aio.Channel) -> None:
        open_stream: Any = channel.stream_stream(
            _METHOD,
            discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            _counted,
        )
        call = open_stream()
        began, asked = time.monotonic(), {CLUSTER, LISTENER}
        first = self._request(CLUSTER)
        first.node.id = self._node
        for request in (first, self._request(LISTENER)):
            await call.write(request)
        async for size, reply in call:
            self.received += size
            self._remember(reply)
            await call.write(
                discovery_pb2.DeltaDiscoveryRequest(
                    type_url=reply.type_url, response_nonce=reply.nonce
                )
            )
            if reply.type_url == ENDPOINT:
                self.opened = began
                self._settle(reply)
            follower = {CLUSTER: ENDPOINT, LISTENER: ROUTE}.get(reply.type_url)
            if follower is not None and follower not in asked:
                asked.add(follower)
                clusters = self._versions.get(CLUSTER, {})
                names = clusters if follower == ENDPOINT else [routes.ROUTES]
                await call.write(self._request(follower, *names))

    def _request(self, type_url: str, *names: str) -> Any:
        return discovery_pb2.DeltaDiscoveryRequest(
            type_url=type_url,
            resource_names_subscribe=names,
            initial_resource_versions=self._versions.get(type_url, {}),
        )

    def _remember(self, reply: Any) -> None:
        known = self._versions.setdefault(reply.type_url, {})
        known |= {found.name: found.version for found in reply.resources}
        for name in reply.removed_resources:
            known.pop(name, None)

    def _settle(self, reply: Any) -> None:
        for found in reply.resources:
            if found.name == SERVICE:
                self.endpoints, self.at = found.version, time.monotonic()
                self._confirmed(found)


class Crowd:
    """All clients of one process, and the events for which the parent process waits."""

    def __init__(self, pipe: Connection, address: str, count: int) -> None:
        self._pipe = pipe
        self._wanted: tuple[str, bool] | None = None
        self._since: float | None = None
        self._newest: Any = None
        self.clients = [Client(address, number, self._confirmed) for number in range(count)]
        self._tasks: set[asyncio.Task[None]] = set()

    def obey(self, command: str, *arguments: Any) -> None:
        """`expect ADDRESS ROUTABLE` and `connected SINCE` are answered once they hold."""
        match command:
            case "expect":
                self._wanted = arguments[0], arguments[1]
            case "connected":
                self._since = arguments[0]
            case "cut":
                for client in self.clients:
                    task = asyncio.create_task(client.cut())
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
            case "received":
                self._pipe.send(sum(client.received for client in self.clients))
        self._look()

    def _confirmed(self, found: Any) -> None:
        self._newest = found
        self._look()

    def _look(self) -> None:
        if self._since is not None and all(each.opened >= self._since for each in self.clients):
            self._since = None
            self._pipe.send(max(client.at for client in self.clients))
        if self._wanted is None or self._newest is None:
            return
        newest = self._newest.version
        if any(client.endpoints != newest for client in self.clients):
            return
        address, routable = self._wanted
        if _routes(self._newest.resource, address) is routable:
            self._wanted = None
            times = [client.at for client in self.clients]
            self._pipe.send((quantile(times, 0.5), max(times)))


def _routes(body: Any, address: str) -> bool:
    """Whether an assignment allows new requests to an endpoint."""
    assignment = endpoint_pb2.ClusterLoadAssignment()
    body.Unpack(assignment)
    return any(
        found.endpoint.address.socket_address.address == address
        and found.health_status != health_check_pb2.DRAINING
        for locality in assignment.endpoints
        for found in locality.lb_endpoints
    )


async def clients(pipe: Connection, address: str, count: int) -> None:
    """Run `count` clients of one control plane."""
    crowd = Crowd(pipe, address, count)
    running = [asyncio.create_task(client.run()) for client in crowd.clients]
    await _commands(pipe, crowd.obey)
    for task in running:
        task.cancel()


# --- the proxy ------------------------------------------------------------------------------


async def counting_wire(pipe: Connection, port: int, target: int) -> None:
    """Forward connections; answer each command with (requests, bytes back) since the last one."""
    requests = received = 0
    tasks: set[asyncio.Task[None]] = set()

    async def forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter, up: bool) -> None:
        nonlocal requests, received
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 18):
                requests += data.count(b" HTTP/1.1\r\n") if up else 0
                received += 0 if up else len(data)
                sink.write(data)
                await sink.drain()
        sink.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, outward = await asyncio.open_connection("127.0.0.1", target)
        for source, sink, up in ((reader, outward, True), (onward, writer, False)):
            task = asyncio.create_task(forward(source, sink, up))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def obey(*_: Any) -> None:
        nonlocal requests, received
        pipe.send((requests, received))
        requests = received = 0

    async with await asyncio.start_server(connected, "127.0.0.1", port):
        await _commands(pipe, obey)
