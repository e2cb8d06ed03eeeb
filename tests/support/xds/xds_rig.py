"""A real Envoy, our control plane with a hand-fed catalog, and fake Tritons, in one event loop."""

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import struct
import tempfile
import urllib.request
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio
import structlog
import yaml
from grpc_health.v1 import health_pb2

from sidecar.local.planning.ports import reserve
from sidecar.local.programs import parts
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.latest import Latest
from sidecar.traffic.policy import DEFAULTS, Connection, HealthCheck, TrafficPolicy
from sidecar.v1 import control_plane_pb2, control_plane_pb2_grpc
from sidecar.xds.ads.subscription import Reply
from sidecar.xds.catalog.catalog import Catalog, Instance, Leader, ServiceCatalog
from sidecar.xds.catalog.policy_indexes import PolicyIndexes
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.snapshot import build
from sidecar.xds.envoys.envoy_stats import EnvoyCounters
from sidecar.xds.envoys.envoy_streams import ABSENCE
from sidecar.xds.metrics import ControlPlaneMetrics
from sidecar.xds.publication import Publication
from sidecar.xds.server import ControlPlaneServer
from tests.checks.validate_envoy import read_bootstrap

SERVICE = "triton"
# One process plays both Tritons and all clients: where it stands still for a second, Envoy would
# rightly give up what is well.
UNHURRIED = replace(
    DEFAULTS, connection=Connection(keepalive_timeout=30.0), health_check=HealthCheck(timeout=30.0)
)
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
UNLOAD = "/inference.GRPCInferenceService/RepositoryModelUnload"
ANY = b""
_NEVER = PolicyIndexes()
_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
# Bytes; servers keep gRPC's own limits.
_LARGE_TRAILERS = [
    ("grpc.max_metadata_size", 1 << 23),
    ("grpc.absolute_max_metadata_size", 1 << 23),
]
# Longer than anything takes on a busy machine; a hang, never a speed test.
PATIENCE = 60.0


async def eventually(check: Callable[[], Any], what: str) -> Any:
    """Wait until `check` gives something true."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found, pause = check(), 0.02
            if asyncio.iscoroutine(found):
                found, pause = await found, 0.05  # it asks Envoy, which has other work
            if found:
                return found
            await asyncio.sleep(pause)
    raise AssertionError(what)


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


class FakeTriton:
    """Answers with its name. `gate` holds streams back; `hang` holds unary requests back."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gate = asyncio.Event()
        self.hang = False
        self.die_on_request = False
        # With what requests of this content fail; of any, under `ANY`.
        self.fails: dict[bytes, grpc.StatusCode] = {}
        # What requests of this content are answered, instead of with the name.
        self.says: dict[bytes, bytes] = {}
        # Seconds until requests of this content are answered.
        self.takes: dict[bytes, float] = {}
        # While it is not set, streams are accepted, but not read.
        self.reads = asyncio.Event()
        self.reads.set()
        self.error_text, self.trailers = f"as {name} was told", 0
        self.asked = self.orders = 0
        self.served = 0
        self.streams = 0
        self.serving = True
        self.speaks = asyncio.Event()  # else its sidecar says nothing, but answers pings
        self.speaks.set()
        self.unanswered = 0  # questions to its sidecar
        self.port = self.health_port = 0

    async def start(self) -> Self:
        """Listen on free ports."""
        options = [
            *_UNLIMITED,
            # It shares a process with the client; a Triton would have begun with them.
            ("grpc.server.max_pending_requests", 100_000),
            ("grpc.server.max_pending_requests_hard_limit", 100_000),
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 100),
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((_Handlers(self),))
        self.wire = Wire(self._server.add_insecure_port("127.0.0.1:0"))
        self.port = await self.wire.listen()
        await self._server.start()
        self._sidecar = grpc.aio.server()
        self._sidecar.add_generic_rpc_handlers((_Handlers(self),))
        self.health_port = self._sidecar.add_insecure_port("127.0.0.1:0")
        await self._sidecar.start()
        return self

    async def lose_sidecar(self) -> None:
        """Stop listening."""
        await self._sidecar.stop(None)

    async def stop(self) -> None:
        """End."""
        self.speaks.set()
        self.wire.close()
        await self._server.stop(None)
        await self._sidecar.stop(None)

    def instance(self, **changes: Any) -> Instance:
        """As the catalog has it."""
        return Instance(self.name, "127.0.0.1", self.port, self.health_port, **changes)

    async def infer(self, request: bytes, context: Any) -> bytes:
        """One answer: name and length of the request."""
        self.asked += 1
        if self.die_on_request:
            self.die_on_request = False
            self.wire.drop()
        while self.hang:
            await asyncio.sleep(0.05)
        await asyncio.sleep(self.takes.get(request, 0))
        if code := self.fails.get(request, self.fails.get(ANY)):
            trailers = tuple((f"trailer-{number}", "value") for number in range(self.trailers))
            await context.abort(code, self.error_text, trailers)
        self.served += 1
        context.set_trailing_metadata((("served-by", self.name),))
        return self.says.get(request) or f"{self.name}:{len(request)}".encode()

    async def unload(self, request: bytes, context: Any) -> bytes:
        """An order that changes the server."""
        self.orders += 1
        if code := self.fails.get(ANY):
            await context.abort(code, self.error_text)
        return self.name.encode()

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """For each request as many answers as it says, the first at once, the others gated.

        One that says no number comes back.
        """
        self.streams += 1
        await self.reads.wait()
        async for request in requests:
            if code := self.fails.get(request):
                await context.abort(code, self.error_text)
            if not request.strip().isdigit():
                yield request
                continue
            for turn in range(int(request)):
                if turn:
                    await self.gate.wait()
                yield f"{self.name}:{turn}".encode()

    async def check(self, request: bytes, context: Any) -> bytes:
        """grpc.health.v1 Check."""
        self.unanswered += 1
        await self.speaks.wait()
        self.unanswered -= 1
        status = health_pb2.HealthCheckResponse
        found = status.SERVING if self.serving else status.NOT_SERVING
        return bytes(status(status=found).SerializeToString())


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, triton: FakeTriton) -> None:
        self._methods = {
            INFER: grpc.unary_unary_rpc_method_handler(triton.infer),
            UNLOAD: grpc.unary_unary_rpc_method_handler(triton.unload),
            STREAM: grpc.stream_stream_rpc_method_handler(triton.stream),
            "/grpc.health.v1.Health/Check": grpc.unary_unary_rpc_method_handler(triton.check),
        }

    def service(self, handler_call_details: Any) -> Any:
        return self._methods.get(handler_call_details.method)


class Silent:
    """A listener that only remembers rejections."""

    def __init__(self) -> None:
        self.nacks: list[str] = []

    def connected(self, node: str) -> None: ...

    def shared(self, node: str) -> None: ...

    def disconnected(self, node: str) -> None: ...

    def nacked(self, node: str, reply: Reply, reason: str) -> None:
        self.nacks.append(reason)


class _Ahead(SystemClock):
    """A clock that can be put forward."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead


class ControlPlane:
    """Our server, fed by `publish`."""

    def __init__(self, edge: Edge, *admin: str, first: bool = False) -> None:
        """`admin` are addresses of Envoys whose counters are read.

        The `first` one has run for long enough to know that no other had Envoys before. Any other
        may be a successor: a drain then waits for Envoys that may be on their way to it.
        """
        self.edge = edge
        self.catalog: Latest[Catalog | None] = Latest(None)
        ticking = _Ahead()
        self.publication = Publication(self.catalog, edge, ticking)
        self.metrics = ControlPlaneMetrics()
        self.listener = Silent()
        clock, log = self.publication.clock, structlog.get_logger()
        self.counters = EnvoyCounters(admin, (SERVICE,), clock, log)
        self._server = ControlPlaneServer(
            self.catalog, self.publication, self.counters, self.metrics, self.listener
        )
        ticking.ahead = ABSENCE if first else 0.0

    async def start(self, port: int = 0) -> int:
        """Listen; gives the port."""
        emptied = self._server.envoys.empty_clusters(self.publication)
        quarantine = self._server.quarantine.run()
        loops = (self.publication.run(), self.counters.run(), emptied, quarantine)
        self._tasks = [asyncio.create_task(loop) for loop in loops]
        return await self._server.start(f"127.0.0.1:{port}")

    async def stop(self) -> None:
        """As at SIGTERM."""
        await self._server.stop(2.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def publish(
        self,
        *instances: Instance,
        leader: str | None = None,
        epoch: int = 1,
        settled: bool = True,
        policy: TrafficPolicy = UNHURRIED,
        zone: str = "",
        since: PolicyIndexes = _NEVER,
    ) -> None:
        """Say what Consul would show."""
        led = Leader(leader, epoch) if leader else None
        service = ServiceCatalog(SERVICE, instances, led, settled, policy, since)
        self.catalog.set(Catalog((service,), zone))

    @property
    def busy(self) -> bool:
        """Whether an Envoy has still to confirm something of what was published last."""
        snapshot = self.publication.snapshot.value
        catalog, lingering = self.catalog.value, self.publication.lingering.value
        suspects = self.publication.suspects.value
        if catalog is None or snapshot != build(catalog, self.edge, lingering, suspects):
            return True
        return any(stream.ads.behind(snapshot) for stream in self._server.envoys.streams)

    def sample(self, name: str) -> float:
        """A metric's value, summed over its labels."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == f"triton_sidecar_xds_{name}"
        )


class Envoy:
    """A real Envoy in its own folder."""

    process: asyncio.subprocess.Process
    log: Path
    stopped = False
    admin = ""
    port = 0

    @classmethod
    async def start(
        cls, folder: Path, xds_port: int, api_type: str, workers: int = 2, second: int = 0
    ) -> "Envoy":
        """Start it; its listener is not there before the control plane has published.

        `second` is the port of another control plane.
        """
        config = read_bootstrap(two=bool(second))
        config["dynamic_resources"]["ads_config"]["api_type"] = api_type
        _set_port(config["admin"]["address"], 0)
        [control_plane] = config["static_resources"]["clusters"]
        ports = [xds_port, second] if second else [xds_port]
        localities = control_plane["load_assignment"]["endpoints"]
        for locality, port in zip(localities, ports, strict=True):
            _set_port(locality["lb_endpoints"][0]["endpoint"]["address"], port)
        path, admin = folder / "envoy.yaml", folder / "admin"
        path.write_text(yaml.safe_dump(config))
        envoy = cls()
        envoy.log = folder / "envoy.log"
        with (folder / "envoy.log").open("wb") as log:
            envoy.process = await asyncio.create_subprocess_exec(
                *(str(parts.find("envoy")), "-c", str(path), "--admin-address-path", str(admin)),
                *("--disable-hot-restart", "--concurrency", str(workers), "-l", "info"),
                stdout=log,
                stderr=log,
            )
        await eventually(lambda: admin.exists() and admin.read_text(), "Envoy's admin address")
        envoy.admin = admin.read_text()
        return envoy

    async def listening(self) -> None:
        """Wait until it accepts clients."""
        await eventually(self._find_listener, "Envoy listens")

    async def get(self, path: str) -> str:
        """A page of the admin interface."""
        return await asyncio.to_thread(self._get, path)

    async def stat(self, name: str) -> int:
        """A counter or gauge; 0 while it does not exist."""
        found = json.loads(await self.get(f"/stats?format=json&filter=^{name}$"))["stats"]
        return int(found[0]["value"]) if found else 0

    async def stop(self) -> None:
        """End the process, which must not have ended by itself; again is fine."""
        if self.stopped:
            return
        self.stopped, alone = True, self.process.returncode
        if alone is None:
            self.process.send_signal(signal.SIGTERM)
        await self.process.wait()
        assert alone is None, f"Envoy ended with {alone}: {self.log.read_text()[-4000:]}"

    async def _find_listener(self) -> bool:
        found = json.loads(await self.get("/listeners?format=json"))
        for status in found.get("listener_statuses", ()):
            self.port = status["local_address"]["socket_address"]["port_value"]
        if not self.port:
            return False
        # The address is bound before the first worker listens there.
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except ConnectionRefusedError:
            return False
        writer.close()
        return True

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=PATIENCE) as answer:
            return str(answer.read().decode())


class Client:
    """Plain gRPC through Envoy; where there is none, through one at the port `also`."""

    def __init__(self, port: int, authority: str = "", also: int = 0) -> None:
        # The stubs know no calls of raw bytes.
        named = [("grpc.default_authority", authority)] if authority else []
        options: list[tuple[str, Any]] = [*_UNLIMITED, *_LARGE_TRAILERS, *named]
        target = f"ipv4:127.0.0.1:{port},127.0.0.1:{also}" if also else f"127.0.0.1:{port}"
        self._channel = grpc.aio.insecure_channel(target, options=options)
        self.infer: Any = self._channel.unary_unary(INFER)  # type: ignore[call-arg]
        self.stream: Any = self._channel.stream_stream(STREAM)  # type: ignore[call-arg]
        self.unload: Any = self._channel.unary_unary(UNLOAD)  # type: ignore[call-arg]

    async def who(self, request: bytes = b"x", **headers: str) -> str:
        """Which instance answers; `_` in the names of headers stands for `-`."""
        answer: bytes = await self.infer(
            request,
            timeout=PATIENCE,
            metadata=[(name.replace("_", "-"), value) for name, value in headers.items()],
        )
        return answer.decode().partition(":")[0]

    async def count(self, requests: int, **headers: str) -> Counter[str]:
        """How many of so many requests, one after the other, each instance answers."""
        return Counter([await self.who(b"x", **headers) for _ in range(requests)])

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close(None)


class Load:
    """Closed-loop clients, counting answers by instance; failures are kept as text.

    Each lets `pause` seconds pass between an answer and its next request.
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
                self.answers[await self._client.who()] += 1
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{error.code()}: {error.details()}")
            if self._pause:
                await asyncio.sleep(self._pause)

    async def more(self, count: int, by: str | None = None) -> None:
        """Wait for that many further answers, from any instance or from one."""
        start = self.answers[by] if by else self.answers.total()
        await eventually(
            lambda: (self.answers[by] if by else self.answers.total()) >= start + count,
            f"{count} more answers",
        )

    async def stop(self) -> None:
        """Let every client finish its request."""
        self._done = True
        await asyncio.gather(*self._tasks)


class Rig:
    """All of it. `a` and `b` are two fake Tritons; `control_plane` may be replaced."""

    a: FakeTriton
    b: FakeTriton
    control_plane: ControlPlane
    second: ControlPlane
    xds_port: int
    envoy: Envoy
    client: Client
    stack: AsyncExitStack

    def __init__(self, folder: Path, api_type: str, quarantine: float) -> None:
        self.edge = Edge(listen_host="127.0.0.1", listen_port=0, quarantine=quarantine)
        self.folder = folder
        self.api_type = api_type

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        api_type: str,
        workers: int = 2,
        planes: int = 1,
        quarantine: float = Edge().quarantine,
    ) -> "AsyncGenerator[Rig]":
        """Started, with `a` as the leader; stopped afterwards.

        Of two planes, the other one is `second`.
        """
        folder = Path(tempfile.mkdtemp(prefix="xds-"))
        rig = cls(folder, api_type, quarantine)
        async with AsyncExitStack() as stack:
            rig.stack = stack
            stack.callback(shutil.rmtree, folder)
            rig.a = await FakeTriton("a").start()
            stack.push_async_callback(rig.a.stop)
            rig.b = await FakeTriton("b").start()
            stack.push_async_callback(rig.b.stop)
            rig.control_plane = ControlPlane(rig.edge, first=True)
            [rig.xds_port] = stack.enter_context(reserve(1))  # for those that follow it as well
            await rig.control_plane.start(rig.xds_port)
            stack.push_async_callback(lambda: rig.control_plane.stop())
            rig.both(leader="a")
            other = 0
            if planes > 1:
                rig.second = ControlPlane(rig.edge)
                other = await rig.second.start()
                stack.push_async_callback(rig.second.stop)
                rig.second.catalog.set(rig.control_plane.catalog.value)
            rig.envoy = await Envoy.start(folder, rig.xds_port, api_type, workers, other)
            stack.push_async_callback(rig.envoy.stop)
            await rig.envoy.listening()
            rig.client = Client(rig.envoy.port)
            stack.push_async_callback(rig.client.close)
            await eventually(rig.reachable, "both are healthy")
            yield rig

    def both(self, leader: str | None, epoch: int = 1, policy: TrafficPolicy = UNHURRIED) -> None:
        """Publish both as healthy."""
        instances = self.a.instance(), self.b.instance()
        self.control_plane.publish(*instances, leader=leader, epoch=epoch, policy=policy)

    @asynccontextmanager
    async def client_of(self, authority: str) -> "AsyncGenerator[Client]":
        """A client whose requests name an authority."""
        client = Client(self.envoy.port, authority)
        try:
            yield client
        finally:
            await client.close()

    async def join(self, *names: str) -> list[FakeTriton]:
        """Start further Tritons, which are stopped with the rig."""
        joined = [await FakeTriton(name).start() for name in names]
        for triton in joined:
            self.stack.push_async_callback(triton.stop)
        return joined

    async def reachable(self, count: int = 2, cluster: str = SERVICE) -> bool:
        """Whether Envoy's own checks have passed so many hosts.

        In each cluster that is counted by that name: the gauge is that of either.
        """
        found = json.loads(await self.envoy.get("/clusters?format=json"))["cluster_statuses"]
        named = [each for each in found if each["observability_name"] == cluster]
        well = [
            sum(host["health_status"] == {"eds_health_status": "HEALTHY"} for host in hosts)
            for hosts in (each.get("host_statuses", []) for each in named)
        ]
        return bool(well) and set(well) == {count}

    async def settled(self, hosts: int = 2, cluster: str = SERVICE) -> None:
        """Wait until Envoy has taken everything, and its own checks have passed so many hosts."""

        async def done() -> bool:
            warming = await self.envoy.stat("cluster_manager.warming_clusters")
            told = not self.control_plane.busy
            return not warming and told and await self.reachable(hosts, cluster)

        await eventually(done, "Envoy has settled")

    @asynccontextmanager
    async def drain_of(self, instance: str) -> AsyncGenerator[Callable[[], Any]]:
        """Watch a drain; gives a function for the newest status."""
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.xds_port}")
        stub = control_plane_pb2_grpc.ControlPlaneServiceStub(channel)  # type: ignore[no-untyped-call]
        newest = control_plane_pb2.WatchDrainResponse()

        async def follow() -> None:
            nonlocal newest
            request = control_plane_pb2.WatchDrainRequest(service=SERVICE, instance=instance)
            async for status in stub.WatchDrain(request):
                newest = status

        task = asyncio.create_task(follow())
        try:
            yield lambda: newest
        finally:
            task.cancel()
            await channel.close(None)


def _set_port(address: dict[str, Any], port: int) -> None:
    address["socket_address"] |= {"address": "127.0.0.1", "port_value": port}
