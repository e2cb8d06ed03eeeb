"""A request goes to an instance that serves its model: real Envoy, fake Tritons."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest

from sidecar.traffic.policy import (
    MIB,
    Affinity,
    Limits,
    Mode,
    ModelRule,
    OutlierDetection,
    Release,
    TrafficPolicy,
)
from sidecar.xds.catalog.catalog import Instance
from tests.support.xds.control_plane import SERVICE, UNHURRIED
from tests.support.xds.fake_tritons import STREAM, FakeTriton
from tests.support.xds.model_rig import (
    Answer,
    ModelClient,
    ModelLoad,
    model_of,
    policy,
    request,
)
from tests.support.xds.raw_client import RawClient, message
from tests.support.xds.waiting import eventually
from tests.support.xds.xds_rig import Rig

pytestmark = pytest.mark.integration
CODE = grpc.StatusCode
BROKEN = "CANARY_FAILED"


@dataclass
class Scene:
    """Three Tritons: `a` serves x, `b` x and y, `c` y and z."""

    rig: Rig
    c: FakeTriton
    client: ModelClient

    @property
    def instances(self) -> dict[str, Instance]:
        served = {"a": (self.rig.a, "x"), "b": (self.rig.b, "xy"), "c": (self.c, "yz")}
        return {
            name: fake.instance(models=tuple(models)) for name, (fake, models) in served.items()
        }

    async def publish(
        self,
        given: TrafficPolicy,
        leader: str | None = "a",
        hosts: int = 3,
        **changes: dict[str, Any],
    ) -> None:
        """Publish all three, with changes by name, and wait until Envoy has it."""
        found = [replace(each, **changes.get(each.id, {})) for each in self.instances.values()]
        self.rig.control_plane.publish(*found, leader=leader, policy=given)
        await self.rig.settled(hosts)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with Rig.running("DELTA_GRPC") as rig:
        [c] = await rig.join("c")
        client = ModelClient(rig.envoy.port)
        rig.stack.push_async_callback(client.close)
        yield Scene(rig, c, client)
        assert rig.control_plane.listener.nacks == []
        for script in ("models", "model_frames"):
            assert await rig.envoy.stat(f"http.triton.lua.{script}.errors") == 0


async def test_the_primary_answers_if_it_serves_the_model_and_else_the_standbys(
    scene: Scene,
) -> None:
    await scene.publish(policy())
    assert await scene.client.count("x") == {"a"}
    assert await scene.client.count("y") == {"b", "c"}
    assert await scene.client.ask("z") == Answer("c", "z")
    await scene.publish(policy(), leader="b")
    assert await scene.client.count("x") == {"b"} == await scene.client.count("y")
    await scene.publish(policy(Mode.ACTIVE_ACTIVE))
    assert await scene.client.count("x") == {"a", "b"}
    weighted = policy(Mode.WEIGHTED, weights=(("a", 1), ("c", 1)))
    await scene.publish(weighted)
    assert await scene.client.count("x") == {"a"}
    assert await scene.client.count("y") == {"c"}


async def test_every_method_that_names_a_model_is_routed_by_it(scene: Scene) -> None:
    await scene.publish(policy())
    for method in ("ModelInfer", "ModelReady", "ModelStatistics"):
        assert await scene.client.ask("z", method) == Answer("c", "z")
    # About all models, or about the server.
    assert await scene.client.ask("", "ModelStatistics") == Answer("a")
    assert await scene.client.ask("z", "ServerReady") == Answer("a")
    call = scene.client.stream()
    for model in ("z", "x", "z"):  # where the first message goes
        await call.write(request(model))
        assert model_of(await call.read()) == model
    await call.done_writing()
    assert scene.c.streams == 1


async def test_unknown_and_unavailable_models_are_refused_at_once(scene: Scene) -> None:
    await scene.publish(policy(), b={"unusable": (("y", BROKEN),)}, c={"draining": True}, hosts=2)
    unknown = await scene.client.ask("nothing\n%é")
    assert unknown.code is CODE.NOT_FOUND
    assert "nothing\n%é" in unknown.why
    nowhere = await scene.client.ask("y")
    assert nowhere.code is CODE.UNAVAILABLE
    assert f"b {BROKEN}" in nowhere.why
    assert "c DRAINING" in nowhere.why
    call = scene.client.stream()
    await call.write(request("nothing"))
    assert await call.code() is CODE.NOT_FOUND
    assert scene.rig.b.asked == scene.c.asked == 0
    assert (await scene.client.ask("x" * 5000)).code is CODE.NOT_FOUND


async def test_a_client_cannot_choose_an_instance_by_a_header(scene: Scene) -> None:
    await scene.publish(policy())
    claimed = [("x-triton-sidecar-model", "z"), ("model", "z"), ("envoy.lb", "z")]
    assert await scene.client.ask("x", metadata=claimed) == Answer("a", "x")


async def test_too_little_knowledge_makes_no_model_unknown(scene: Scene) -> None:
    scene.rig.control_plane.publish(policy=policy())
    await scene.rig.settled(0)
    assert (await scene.client.ask("x")).code is CODE.UNAVAILABLE
    scene.rig.control_plane.publish(policy=policy(), settled=False)
    await eventually(lambda: not scene.rig.control_plane.busy, "acknowledged")
    assert (await scene.client.ask("anything")).code is CODE.UNAVAILABLE


ALIAS = {"chat": ModelRule("z", ("y",)), "w": ModelRule("w")}


async def test_an_alias_is_replaced_in_requests_of_any_size(scene: Scene) -> None:
    await scene.publish(policy(models=ALIAS))
    for size in (0, 100, 20_000, 3 * MIB, 64 * MIB):
        assert await scene.client.ask("chat", size=size) == Answer("c", "z")
        assert scene.c.last == request("chat", size) + request("z")
        assert model_of(scene.c.last) == "z"
    assert (await scene.client.ask("chat", "ModelReady")).by == "c"
    # Field 1 after field 2, as no known client writes it.
    moved = await scene.client.send(b"\x12\x011" + request("chat"))
    assert moved.code is CODE.INVALID_ARGUMENT
    assert "alias" in moved.why
    # Where no instance serves it, the fallback answers; then it comes back.
    await scene.publish(policy(models=ALIAS), c={"unusable": (("z", BROKEN),)})
    assert (await scene.client.ask("chat")).model == "y"
    assert (await scene.client.ask("z")).code is CODE.UNAVAILABLE
    await scene.publish(policy(models=ALIAS))
    assert (await scene.client.ask("chat")).model == "z"
    # A name that only the policy knows is not unknown.
    assert (await scene.client.ask("w")).code is CODE.UNAVAILABLE


async def test_an_alias_is_replaced_in_each_message_of_a_stream(scene: Scene) -> None:
    await scene.publish(policy(models=ALIAS))
    call = scene.client.stream()
    for model, size in (("chat", 0), ("chat", 70_000), ("z", 5), ("y", 0), ("chat", 2 * MIB)):
        await call.write(request(model, size))
        wanted = request(model, size) + (request("z") if model == "chat" else b"")
        assert await call.read() == wanted
    await call.done_writing()
    assert await call.code() is CODE.OK
    # Also in a stream that begins with another model, and among many messages in one piece.
    call = scene.client.stream()
    sent = [request("z" if number % 3 else "chat", 700 * number) for number in range(100)]
    for each in sent:
        await call.write(each)
    await call.done_writing()
    for _ in sent:
        assert model_of(await call.read()) == "z"


@pytest.mark.parametrize("renames", [True, False])
@pytest.mark.parametrize("piece", [1, 2, 7, 12, 16, 30, 100, 300, 2000])
async def test_streams_arrive_whole_however_they_are_cut_into_pieces(
    scene: Scene, piece: int, renames: bool
) -> None:
    long = "n" * 255
    await scene.publish(policy(models={**ALIAS, long: ModelRule("z")} if renames else {}))
    other = b"\x12\x011" + request("chat")  # not at the beginning
    sent = [
        *(
            request("chat" if renames else "z"),
            request("chat", 60),
            request("z"),
            b"",
            request(long, 3),
        ),
        *(request(long + "n"), other, request("y", 200), request("chat")),
    ]
    client = await RawClient().connect(scene.rig.envoy.port)
    try:
        stream = client.request(STREAM, b"".join(map(message, sent)), piece=piece)
        await eventually(lambda: stream in client.ended, "the stream has ended")
    finally:
        await client.close()
    named = request("z")
    meant = {"chat", long} if renames else set[str]()
    wanted = [each + named if model_of(each) in meant else each for each in sent]
    if renames:
        wanted[wanted.index(other + named)] = other
    assert scene.c.streamed == wanted


async def test_what_changes_about_a_model_moves_only_its_requests(scene: Scene) -> None:
    given = policy(Mode.ACTIVE_ACTIVE)
    await scene.publish(given)
    connections = await scene.rig.envoy.stat(f"cluster.{SERVICE}.upstream_cx_total")
    subsets = await scene.rig.envoy.stat(f"cluster.{SERVICE}.lb_subsets_active")
    call = scene.client.stream()
    await call.write(request("y", 1))
    await call.read()
    load = ModelLoad(scene.client, "xyz")
    await load.more("y", "b")
    await load.more("y", "c")
    for _ in range(3):
        # One model only becomes unhealthy on one instance, and comes back.
        await scene.publish(given, c={"unusable": (("y", BROKEN),)})
        before = load.answers["y", "c"]
        await load.more("y", "b")
        await load.more("z", "c")
        assert load.answers["y", "c"] <= before + 4  # those in flight
        # It is loaded on one more instance, and unloaded there.
        await scene.publish(given, a={"models": ("x", "y", "z")})
        await load.more("z", "a")
        await load.more("y", "a")
        await load.more("y", "c")
        await scene.publish(given)
        await load.more("z", "c")
    await load.stop()
    assert load.failures == []
    assert load.answers["x", "c"] == 0
    # The stream stayed where it was, and no connection was replaced.
    await call.write(request("y", 2))
    assert await call.read() == request("y", 2)
    await call.done_writing()
    now = await scene.rig.envoy.stat(f"cluster.{SERVICE}.upstream_cx_total")
    assert now <= connections + 6  # 2 workers that connect to 3 instances
    # Envoy forgets models that are gone (envoy#3803).
    await scene.publish(given, a={"models": tuple(f"model-{number}" for number in range(50))})
    assert await scene.rig.envoy.stat(f"cluster.{SERVICE}.lb_subsets_active") > subsets
    await scene.publish(given)
    assert await scene.rig.envoy.stat(f"cluster.{SERVICE}.lb_subsets_active") == subsets


async def test_routing_by_model_begins_and_ends_without_a_failed_request(scene: Scene) -> None:
    every = {name: {"models": ("x",)} for name in "abc"}
    await scene.publish(UNHURRIED, a=every["a"], b=every["b"], c=every["c"])
    load = ModelLoad(scene.client, "x", clients=12)
    for given in (policy(), UNHURRIED, policy(Mode.ACTIVE_ACTIVE), policy(models=ALIAS)):
        await load.more("x", "a")
        await scene.publish(given, a=every["a"], b=every["b"], c=every["c"])
    await load.more("x", "a")
    await load.stop()
    assert load.failures == []


@pytest.mark.parametrize("mode", [Mode.ACTIVE_STANDBY, Mode.ACTIVE_ACTIVE])
async def test_a_retry_goes_to_another_instance_that_serves_the_model(
    scene: Scene, mode: Mode
) -> None:
    await scene.publish(policy(mode, models={"alias": ModelRule("x")}), leader="b")
    for size in (0, 64 * MIB):
        for model in ("x", "alias"):
            for fake in (scene.rig.a, scene.rig.b):
                fake.fails[b""] = CODE.UNAVAILABLE
                for _ in range(3):
                    answer = await scene.client.ask(model, size=size)
                    assert answer.code is CODE.OK, answer
                    assert answer.by != fake.name
                fake.fails.clear()
    assert scene.c.asked == 0
    # A crash, with requests on the connection.
    scene.rig.b.die_on_request = True
    answers = await asyncio.gather(*[scene.client.ask("x") for _ in range(30)])
    assert {each.code for each in answers} == {CODE.OK}
    assert scene.c.asked == 0


async def test_the_only_instance_with_a_model_is_never_ejected(scene: Scene) -> None:
    eager = OutlierDetection(consecutive_local_origin_failure=1, base_ejection_time=30.0)
    await scene.publish(policy(Mode.ACTIVE_ACTIVE, outlier_detection=eager))
    for _ in range(3):
        scene.c.die_on_request = True
        assert (await scene.client.ask("z")).code in (CODE.OK, CODE.UNAVAILABLE)
        await asyncio.sleep(0.6)
    assert (await scene.client.ask("z")).code is CODE.OK


async def test_a_strict_primary_answers_alone(scene: Scene) -> None:
    strict = policy(Mode.STRICT)
    await scene.publish(strict, hosts=1)
    assert (await scene.client.ask("x")).by == "a"
    nowhere = await scene.client.ask("z")
    assert nowhere.code is CODE.UNAVAILABLE
    assert "c STANDBY" in nowhere.why
    # While there is no primary, requests wait for one.
    await scene.publish(strict, leader=None, hosts=0)
    waiting = asyncio.create_task(scene.client.ask("x"))
    await asyncio.sleep(0.3)
    await scene.publish(strict, leader="b", hosts=1)
    assert (await waiting).by == "b"


async def test_a_release_gets_its_share_of_the_models_that_it_serves(scene: Scene) -> None:
    given = policy(Mode.ACTIVE_ACTIVE, release=Release(tag="v2", percent=100))
    await scene.publish(given, b={"tags": ("v2",)})
    await scene.rig.settled(3, f"{SERVICE}~release")
    assert await scene.client.count("x") == {"b"}
    assert await scene.client.count("z") == {"c"}  # the release does not serve it


async def sessions(scene: Scene, model: str) -> dict[int, str]:
    """The instance that answers each of some sessions, on whichever worker."""
    found: dict[int, str] = {}
    for client in [ModelClient(scene.rig.envoy.port) for _ in range(4)]:
        for session in range(30):
            answer = await client.ask(model, metadata=[("x-session", str(session))])
            assert found.setdefault(session, answer.by) == answer.by
        await client.close()
    return found


async def test_each_model_has_a_ring_that_follows_its_instances(scene: Scene) -> None:
    """Rings that Envoy does not rebuild were reported since 1.38 (envoy#45055, envoy#45212)."""
    ring = policy(Mode.ACTIVE_ACTIVE, affinity=Affinity(header="x-session"))
    await scene.publish(ring)
    before = await sessions(scene, "y")
    assert set((await sessions(scene, "x")).values()) == {"a", "b"}
    for _ in range(3):
        await scene.publish(ring, a={"models": ("x", "y")})
        during = await sessions(scene, "y")
        assert set(during.values()) == {"a", "b", "c"}
        assert sum(by == before[session] for session, by in during.items()) >= 10
        await scene.publish(ring, b={"unusable": (("y", BROKEN),)})
        assert set((await sessions(scene, "y")).values()) == {"c"}
        await scene.publish(ring)
        assert await sessions(scene, "y") == before


async def test_a_request_above_the_bound_is_refused(scene: Scene) -> None:
    small = policy(limits=Limits(retry_body_bytes=1000))
    await scene.publish(small)
    assert (await scene.client.ask("x", size=3 * MIB)).code is CODE.UNKNOWN
    call = scene.client.stream()
    await call.write(request("x", 3 * MIB))
    assert await call.code() is CODE.FAILED_PRECONDITION


async def test_a_stream_without_a_message_ends(scene: Scene) -> None:
    await scene.publish(policy())
    client = await RawClient().connect(scene.rig.envoy.port)
    try:
        streams = {client.request(STREAM, b""), client.request(STREAM, b"", body=False)}
        await eventually(lambda: streams <= client.ended, "both have ended")
    finally:
        await client.close()


async def test_a_compressed_request_is_refused(scene: Scene) -> None:
    await scene.publish(policy())
    refused = await scene.client.ask("x", size=5000, compression=grpc.Compression.Gzip)
    assert refused.code is CODE.UNIMPLEMENTED
    call = scene.client.stream(compression=grpc.Compression.Gzip)
    await call.write(request("x", 5000))
    assert await call.code() is CODE.INVALID_ARGUMENT


async def test_the_name_is_found_wherever_it_is_in_a_request(scene: Scene) -> None:
    await scene.publish(policy())
    other = b"\x12\x011" + b"\x28\x96\x01" + b"\x31" + bytes(8) + b"\x3d" + bytes(4)
    large = request("", 3 * MIB)
    for before in (b"", other, large, large + request("x") + other):
        assert await scene.client.send(before + request("z") + other) == Answer("c", "z")
    for malformed in (b"\xff\xff", b"\x0a\x05ab", b"\x0b", b""):  # as if it named none
        assert (await scene.client.send(malformed)).by == "a"


async def test_a_drain_waits_for_requests_by_model(scene: Scene) -> None:
    await scene.publish(policy())
    call = scene.client.stream()
    await call.write(request("z", 1))
    await call.read()
    async with scene.rig.drain_of("c") as status:
        await scene.publish(policy(), c={"draining": True}, hosts=2)
        await eventually(lambda: status().requests_in_flight == 1, "the stream is counted")
        await call.done_writing()
        await eventually(lambda: status().requests_in_flight == 0, "the stream has ended")
