"""ADS clients that misbehave, on our server over real gRPC; only the last test has an Envoy."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
import yaml
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc
from google.protobuf.json_format import ParseDict
from typer.testing import CliRunner

from sidecar.cli.main import app
from sidecar.traffic.policy import DEFAULTS, Connection, Release
from sidecar.xds.catalog.catalog import Health, Instance
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.routes import LISTENER as LISTENER_NAME
from sidecar.xds.config.snapshot import CLUSTER, ENDPOINT, LISTENER, ORDER, ROUTE, RUNTIME
from tests.support.xds.control_plane import SERVICE, UNHURRIED, ControlPlane
from tests.support.xds.grpc_clients import Load
from tests.support.xds.waiting import eventually
from tests.support.xds.xds_rig import Rig

pytestmark = pytest.mark.integration

A = Instance("a", "10.0.0.1", 8001, 9001)
B = Instance("b", "10.0.0.2", 8001, 9001, tags=("new",))
NAMED = (RUNTIME, ENDPOINT, ROUTE)
VARIANTS = ("delta", "sotw")


class Peer:
    """An ADS client. It keeps versions by type and name, and acknowledges nothing automatically.

    With `slow`, gRPC reads ahead as little as possible.
    """

    def __init__(self, port: int, variant: str, node: str, *, slow: bool = False) -> None:
        self.delta = variant == "delta"
        self.node = node
        self.has: dict[str, dict[str, str]] = {type_url: {} for type_url in ORDER}
        self.read_count = 0
        options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
        if slow:
            options += [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
        stub: Any = ads_pb2_grpc.AggregatedDiscoveryServiceStub(self._channel)
        self.open = stub.DeltaAggregatedResources if self.delta else stub.StreamAggregatedResources
        self.call: Any = self.open()
        self._first = True

    async def subscribe(self, *types: str, version: bool = False) -> None:
        """Subscribe to all resources of these types, or of all types."""
        for type_url in types or ORDER:
            await self.send(type_url, names=[SERVICE] if type_url in NAMED else [], resume=version)

    async def send(
        self,
        type_url: str,
        *,
        names: list[str] | None = None,
        gone: list[str] | None = None,
        nonce: str = "",
        error: str = "",
        resume: bool = False,
    ) -> None:
        """Send one request; in the state-of-the-world variant each names all resources."""
        table: dict[str, Any] = {"type_url": type_url, "response_nonce": nonce}
        if self._first:
            table["node"] = {"id": self.node}
        self._first = False
        if error:
            table["error_detail"] = {"code": 3, "message": error}
        if self.delta:
            table["resource_names_subscribe"] = names or []
            table["resource_names_unsubscribe"] = gone or []
            if resume:
                table["initial_resource_versions"] = self.has[type_url]
            await self.call.write(ParseDict(table, discovery_pb2.DeltaDiscoveryRequest()))
            return
        named = names if names is not None else [SERVICE] if type_url in NAMED else []
        table["resource_names"] = named
        if resume and self.has[type_url]:
            table["version_info"] = "some"
        await self.call.write(ParseDict(table, discovery_pb2.DiscoveryRequest()))

    async def read(self) -> Any:
        """The next response."""
        reply = await self.call.read()
        assert reply is not grpc.aio.EOF  # type: ignore[attr-defined]
        self.read_count += 1
        return reply

    async def take(self, reply: Any) -> None:
        """Acknowledge a response."""
        has = self.has[reply.type_url]
        for found in reply.resources:
            if self.delta:
                has[found.name] = found.version
            else:
                has[str(len(has))] = reply.version_info
        await self.send(reply.type_url, nonce=reply.nonce)

    async def follow(self) -> None:
        """Acknowledge every response, forever."""
        while True:
            await self.take(await self.read())

    async def until(self, type_url: str) -> Any:
        """Acknowledge responses until one of that type arrives; returns it unacknowledged."""
        while True:
            reply = await self.read()
            if reply.type_url == type_url:
                return reply
            await self.take(reply)

    async def hang_up(self) -> None:
        """Cancel the stream and close the connection."""
        self.call.cancel()
        await self._channel.close(None)


class Scene:
    """Our server with a catalog, and its clients."""

    def __init__(self) -> None:
        self.plane = ControlPlane(Edge())
        self.port = 0
        self.peers: list[Peer] = []
        self._tasks: list[asyncio.Task[None]] = []

    def peer(self, variant: str, node: str = "envoy-1", *, slow: bool = False) -> Peer:
        peer = Peer(self.port, variant, node, slow=slow)
        self.peers.append(peer)
        return peer

    async def good(self, variant: str, node: str) -> Peer:
        """A client that acknowledges everything, once it has all resources."""
        peer = self.peer(variant, node)
        await peer.subscribe()
        self._tasks.append(asyncio.create_task(peer.follow()))
        await eventually(lambda: self.current(node), f"{node} has everything")
        return peer

    def current(self, node: str) -> bool:
        """Whether a node has acknowledged the newest snapshot."""
        snapshot = self.plane.publication.snapshot.value
        streams = [each for each in self.streams if each.node == node]
        return bool(streams and snapshot) and all(
            len(each.ads.subscriptions) == len(ORDER) and not each.ads.behind(snapshot)
            for each in streams
        )

    @property
    def streams(self) -> list[Any]:
        return list(self.plane._server.envoys.streams)

    async def publish(self, turn: int) -> None:
        """Publish a catalog; all clusters and endpoints differ from those of other turns."""
        policy = replace(DEFAULTS, connection=Connection(connect_timeout=1.0 + turn / 10_000))
        self.plane.publish(replace(A, weight=1 + turn), B, leader="a", policy=policy)
        await asyncio.sleep(0)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self.peers:
            await peer.hang_up()
        await self.plane.stop()


@asynccontextmanager
async def running() -> AsyncIterator[Scene]:
    found = Scene()
    found.port = await found.plane.start()
    await found.publish(0)
    try:
        yield found
    finally:
        await found.end()


@pytest.fixture(autouse=True)
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed clusters keep their names, as between versions of the control plane."""
    for module in ("lingering", "snapshot"):
        monkeypatch.setattr(f"sidecar.xds.config.{module}.generation", lambda *_, **__: "")


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with running() as found:
        yield found


@pytest.mark.parametrize("variant", VARIANTS)
async def test_a_client_gets_all_types_in_order(scene: Scene, variant: str) -> None:
    peer = scene.peer(variant)
    await peer.subscribe()
    seen = []
    for _ in ORDER:
        reply = await peer.read()
        seen.append(reply.type_url)
        await peer.take(reply)
    assert seen.index(CLUSTER) < seen.index(ENDPOINT) < seen.index(ROUTE)
    assert sorted(seen) == sorted(ORDER)
    await eventually(lambda: scene.current("envoy-1"), "it has everything")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("reads", [False, True], ids=["never reads", "never acknowledges"])
async def test_a_slow_client_has_one_response_per_type_outstanding(
    scene: Scene, variant: str, reads: bool
) -> None:
    await scene.good(variant, "good")
    bad = scene.peer(variant, "bad", slow=True)
    await bad.subscribe()
    await eventually(lambda: len(scene.streams) == 2, "it is taken on")
    read: list[Any] = []
    for turn in range(1, 201):
        await scene.publish(turn)
        if reads and len(read) < 4:  # runtime, clusters, endpoints, listener: routes wait
            read.append(await bad.read())
    await eventually(lambda: scene.current("good"), "the good one has the newest")
    [stream] = [each for each in scene.streams if each.node == "bad"]
    assert len(stream.outstanding) <= len(ORDER)
    # Once it acknowledges, the next response has the newest state.
    for reply in read:
        await bad.take(reply)
    task = asyncio.create_task(bad.follow())
    await eventually(lambda: scene.current("bad"), "the bad one has the newest")
    assert bad.read_count < 4 * len(ORDER)
    task.cancel()


@pytest.mark.parametrize("variant", VARIANTS)
async def test_acknowledgements_with_an_unknown_nonce_change_nothing(
    scene: Scene, variant: str
) -> None:
    peer = scene.peer(variant)
    await peer.subscribe(CLUSTER, ENDPOINT)
    first = await peer.until(ENDPOINT)
    for nonce in ("0", "99", "nonsense", first.nonce + "0"):
        await peer.send(ENDPOINT, nonce=nonce)
        await peer.send(ENDPOINT, nonce=nonce, error="no")
    await scene.publish(1)
    # Clusters are sent; the first response for endpoints is still to be acknowledged.
    await peer.take(await peer.until(CLUSTER))
    await peer.take(first)
    second = await peer.until(ENDPOINT)
    assert second.nonce != first.nonce
    [stream] = scene.streams
    assert not stream.nacks


@pytest.mark.parametrize("variant", VARIANTS)
async def test_repeated_subscriptions_and_an_unsubscription_are_followed(
    scene: Scene, variant: str
) -> None:
    peer = scene.peer(variant)
    await peer.subscribe(ENDPOINT)
    await peer.take(await peer.until(ENDPOINT))
    for _ in range(50):
        await peer.send(ENDPOINT, names=[SERVICE])  # without a nonce
    await scene.publish(1)
    seen = await peer.until(ENDPOINT)
    await peer.take(seen)
    if peer.delta:
        await peer.send(ENDPOINT, gone=[SERVICE])
    else:
        await peer.send(ENDPOINT, names=[], nonce=seen.nonce)
    subscription = scene.streams[0].ads.subscriptions[ENDPOINT]
    await eventually(lambda: not subscription.wants(SERVICE), "it has unsubscribed")
    await scene.publish(2)
    before = peer.read_count
    await peer.subscribe(CLUSTER)
    await peer.until(CLUSTER)
    assert peer.read_count <= before + 2  # at most the endpoints that were already under way


@pytest.mark.parametrize("variant", VARIANTS)
async def test_a_client_that_keeps_rejecting_keeps_its_state_and_is_reported(
    scene: Scene, variant: str
) -> None:
    await scene.good(variant, "good")
    bad = scene.peer(variant, "bad")
    await bad.subscribe()
    for _ in ORDER:
        await bad.take(await bad.read())
    await eventually(lambda: scene.current("bad"), "it has everything")
    for turn in range(1, 20):
        await scene.publish(turn)
        reply = await bad.read()
        while reply.type_url != CLUSTER:
            await bad.take(reply)
            reply = await bad.read()
        await bad.send(CLUSTER, nonce=reply.nonce, error="not this one")
    await eventually(lambda: scene.current("good"), "the good one follows")
    await eventually(lambda: scene.plane.sample("refusing") == 1.0, "the gauge is set")
    await eventually(lambda: scene.plane.sample("refusals_total") >= 19, "each is counted")
    found = await cli("clients", scene.port, "--json")
    [shown] = [each for each in found["control_planes"][0]["clients"] if each["node"] == "bad"]
    [clusters] = [each for each in shown["types"] if each["type"] == "Cluster"]
    assert clusters["refused"]["reason"] == "not this one"
    assert clusters["behind"][0]["standing"] == "ERROR"
    config = await status(scene, "bad")
    [cluster] = [each for each in config.generic_xds_configs if each.type_url == CLUSTER]
    assert cluster.config_status == csds_pb2.ERROR
    assert cluster.error_state.details == "not this one"
    assert "NACK" in await text("clients", scene.port)


@pytest.mark.parametrize("variant", VARIANTS)
async def test_a_client_may_hang_up_at_every_step(scene: Scene, variant: str) -> None:
    await scene.good(variant, "good")
    has: dict[str, dict[str, str]] = {type_url: {} for type_url in ORDER}
    for step in range(12):
        await scene.publish(100 + step)
        peer = scene.peer(variant, "bad")
        peer.has = has  # it reconnects with its versions
        await peer.subscribe(*ORDER[: step // 2 + 1], version=True)
        for turn in range(step // 2):
            await scene.publish(1000 + 10 * step + turn)
            reply = await peer.read()
            if turn % 2:
                await peer.take(reply)
        await peer.hang_up()
        await eventually(lambda: len(scene.streams) == 1, "only the good one is left")
    await eventually(lambda: scene.current("good"), "the good one follows")
    assert scene.plane.sample("envoys") == 1.0


async def test_a_hundred_clients_are_admitted_while_connected_ones_get_updates(
    scene: Scene,
) -> None:
    await scene.good("delta", "good")
    newcomers = [scene.peer(VARIANTS[turn % 2], f"envoy-{turn}") for turn in range(100)]
    followers = []
    for peer in newcomers:
        await peer.subscribe()
        followers.append(asyncio.create_task(peer.follow()))
    for turn in range(1, 20):
        await scene.publish(turn)
        await eventually(lambda: scene.current("good"), "the connected one is up to date")
    await eventually(lambda: len(scene.streams) == 101, "all are taken on")
    await eventually(
        lambda: all(scene.current(peer.node) for peer in newcomers), "all are up to date"
    )
    assert scene.plane.sample("waiting") == 0.0
    for task in followers:
        task.cancel()


async def test_streams_that_end_while_waiting_leave_nothing_behind(scene: Scene) -> None:
    newcomers = [scene.peer("delta", f"envoy-{turn}") for turn in range(60)]
    for peer in newcomers:
        await peer.subscribe()
    await asyncio.gather(*(peer.hang_up() for peer in newcomers))
    await eventually(lambda: not scene.streams, "no stream is left")
    await eventually(lambda: scene.plane.sample("waiting") == 0.0, "no stream waits")
    await scene.good("delta", "good")


async def test_invalid_requests_affect_no_other_stream(scene: Scene) -> None:
    await scene.good("delta", "good")
    invalid = scene.peer("delta", "")
    await invalid.send("type.googleapis.com/envoy.nothing.Of.The.Sort", names=["x", "*", ""])
    await invalid.send("", names=["\x00" * 1000])
    await invalid.send(LISTENER, names=["*"] * 100, gone=["*", "other"], nonce="\u2603")
    await invalid.send(ENDPOINT, names=[f"service-{turn}" for turn in range(5000)])
    await scene.publish(1)
    await eventually(lambda: scene.current("good"), "the good one follows")
    # Of the requested resources only the listener exists.
    sent = [reply for stream in scene.streams if not stream.node for reply in stream.outstanding]
    assert {each.name for reply in sent for each in reply.resources} <= {LISTENER_NAME}


async def test_csds_reports_the_resources_of_each_envoy(scene: Scene) -> None:
    for variant in VARIANTS:
        await scene.good(variant, variant)
    await scene.publish(5)
    await eventually(lambda: all(map(scene.current, VARIANTS)), "both have everything")
    snapshot = scene.plane.publication.snapshot.value
    assert snapshot is not None
    for variant in VARIANTS:
        config = await status(scene, variant)
        assert {each.config_status for each in config.generic_xds_configs} == {csds_pb2.SYNCED}
        reported = {(each.type_url, each.name): each for each in config.generic_xds_configs}
        assert reported.keys() == {
            (type_url, name) for type_url in ORDER for name in snapshot.of(type_url)
        }
        assert reported[CLUSTER, SERVICE].xds_config == snapshot.of(CLUSTER)[SERVICE].body


async def test_csds_rejects_unsupported_node_matchers(scene: Scene) -> None:
    request = ParseDict(
        {"nodeMatchers": [{"nodeId": {"safeRegex": {"regex": "."}}}]},
        csds_pb2.ClientStatusRequest(),
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{scene.port}") as channel:
        stub: Any = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.FetchClientStatus(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def status(scene: Scene, node: str) -> Any:
    """The CSDS config of a node, which must be the same from both methods."""
    request = ParseDict(
        {"nodeMatchers": [{"nodeId": {"exact": node}}]}, csds_pb2.ClientStatusRequest()
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{scene.port}") as channel:
        stub: Any = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
        fetched = await stub.FetchClientStatus(request)
        call = stub.StreamClientStatus()
        await call.write(request)
        streamed = await call.read()
        call.cancel()
    [config], [again] = fetched.config, streamed.config
    assert config == again
    return config


async def text(command: str, port: int, *more: str) -> str:
    """The output of a command."""
    arguments = ["xds", command, *more, "--at", f"127.0.0.1:{port}"]
    done = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert done.exit_code == 0, done.output
    return done.output


async def cli(command: str, port: int, *more: str) -> Any:
    return json.loads(await text(command, port, *more))


async def test_the_commands_report_clients_snapshot_and_placements(scene: Scene) -> None:
    unhealthy = replace(B, health=Health.CRITICAL)
    scene.plane.publish(A, unhealthy, leader="a", epoch=42)
    await scene.good("delta", "envoy-1")
    assert "envoy-1" in await text("clients", scene.port)
    [client] = (await cli("clients", scene.port, "--json"))["control_planes"][0]["clients"]
    assert client["lag_seconds"] == 0.0
    assert [each["behind"] for each in client["types"]] == [[]] * len(ORDER)

    shown = await text("snapshot", scene.port)
    assert "withdrawn" in shown
    [plane] = (await cli("snapshot", scene.port, "--json"))["control_planes"]
    places = {each["instance"]: each["priority"] for each in plane["clusters"][0]["endpoints"]}
    assert places == {"a": 0, "b": None}
    document = yaml.safe_load(await text("snapshot", scene.port, "--yaml"))
    cluster = document["resources"]["Cluster"][SERVICE]["resource"]
    assert cluster["@type"] == CLUSTER

    explanation = await text("explain", scene.port, "a")
    assert "epoch 42" in explanation
    [plane] = (await cli("explain", scene.port, "b", "--json"))["control_planes"]
    [place] = plane["placements"]
    [why] = place["why"]
    assert "critical" in why
    assert place["priority"] is None
    await eventually(
        lambda: scene.plane.publication.placed_since(SERVICE, "b"), "it is known since when"
    )
    assert "every Envoy has acknowledged" in await text("diff", scene.port)

    unknown = CliRunner()
    arguments = ["xds", "explain", "nobody", "--at", f"127.0.0.1:{scene.port}"]
    done = await asyncio.to_thread(unknown.invoke, app, arguments)
    assert done.exit_code == 1


async def test_diff_reports_unacknowledged_resources(scene: Scene) -> None:
    unresponsive = scene.peer("delta", "lazy")
    await unresponsive.subscribe()
    await eventually(lambda: len(scene.streams) == 1, "it is taken on")
    await eventually(lambda: scene.streams[0].outstanding, "it has been sent resources")
    shown = await text("diff", scene.port)
    assert "lazy" in shown
    assert "STALE" in shown
    [plane] = (await cli("diff", scene.port, "--json"))["control_planes"]
    assert {each["name"] for each in plane["unconfirmed"]} == {SERVICE}


@pytest.mark.parametrize("api_type", ["DELTA_GRPC", "GRPC"])
async def test_a_release_that_starts_and_ends_under_load_fails_no_request(api_type: str) -> None:
    async with Rig.running(api_type) as rig:
        new = rig.b.instance(tags=("new",))
        load = Load(rig.client, clients=16)
        await load.more(50, by="a")
        for turn in range(10):
            release = None if turn % 2 else Release(tag="new", percent=100)
            rig.control_plane.publish(
                rig.a.instance(), new, leader="a", policy=replace(UNHURRIED, release=release)
            )
            await load.more(100, by="ba"[turn % 2])
        await load.stop()
        assert load.failures == []
        assert rig.control_plane.listener.nacks == []
