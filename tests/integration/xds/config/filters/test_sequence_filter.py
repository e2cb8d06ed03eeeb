"""A sequence continues on the instance where it began, or fails: real Envoy and Tritons."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from sidecar.traffic.policy import (
    KIB,
    Affinity,
    Limits,
    Match,
    Mode,
    OutlierDetection,
    Release,
    TrafficPolicy,
)
from sidecar.xds.catalog.catalog import Catalog, Health, Leader, ServiceCatalog
from sidecar.xds.catalog.policy_indexes import PolicyIndexes
from tests.support.triton_server import TritonServer
from tests.support.xds.control_plane import SERVICE
from tests.support.xds.sequence_rig import (
    HEADER,
    Answer,
    Client,
    SequenceScene,
    failure,
    policy,
    request,
    two_tritons,
)
from tests.support.xds.waiting import eventually

pytestmark = pytest.mark.integration
MANY = range(1, 101)
FORGOTTEN, ANOTHER_CONNECTION = "traffic policy", "over this connection"
MUST_START = "must specify the START flag on the first request of the sequence"


@pytest.fixture(scope="module")
def tritons(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[TritonServer, TritonServer]]:
    with two_tritons(tmp_path_factory.mktemp("sequences")) as pair:
        yield pair


@pytest.fixture
async def scene(tritons: tuple[TritonServer, TritonServer]) -> AsyncIterator[SequenceScene]:
    async with SequenceScene.running(tritons) as made:
        yield made
        assert await made.rig.envoy.stat("http.triton.lua.sequences.errors") == 0


async def publish_both(
    scene: SequenceScene, mode: Mode = Mode.ACTIVE_ACTIVE, leader: str = "a"
) -> None:
    await scene.publish(
        scene.instance("a"),
        scene.instance("b"),
        policy=policy(mode),
        leader=leader,
        healthy=1 if mode is Mode.STRICT else 2,
    )


async def begin(client: Client, sequence: int, value: int) -> int:
    """Begin a sequence; returns the process that has it."""
    begun = await client.ask(sequence, value, start=True)
    assert begun.sum == value
    return begun.place


async def processes(scene: SequenceScene) -> dict[str, int]:
    """The process of each instance; publishes both."""
    found = {}
    for name in "ab":
        await scene.publish(scene.instance(name), policy=policy(), healthy=1)
        found[name] = await begin(scene.client, 999, 1)
    await publish_both(scene)
    return found


async def assert_all_continue(client: Client, homes: dict[int, int]) -> None:
    """Assert that each sequence continues where it began, with the right sum."""
    for sequence, place in homes.items():
        assert await client.ask(sequence, 1000) == Answer(sequence + 1000, place)


async def test_running_sequences_stay_on_a_busy_instance_and_new_ones_move(
    scene: SequenceScene,
) -> None:
    heavy = scene.instance("a", weight=100), scene.instance("b", weight=100)
    await scene.publish(*heavy, policy=policy(), healthy=2)
    homes = await scene.client.begin(MANY)
    assert len(set(homes.values())) == 2
    for weight in (50, 25):
        busy = scene.instance("a", weight=weight, percent=weight, health=Health.WARNING)
        await scene.publish(busy, heavy[1], policy=policy(), healthy=2)
        for sequence, place in homes.items():
            assert (await scene.client.ask(sequence, 0)).place == place
    newer = await scene.client.begin(range(1001, 1101))
    least = min(homes.values(), key=list(newer.values()).count)
    assert list(newer.values()).count(least) < list(homes.values()).count(least)
    await scene.publish(*heavy, policy=policy(), healthy=2)
    await assert_all_continue(scene.client, homes)
    await assert_all_continue(scene.client, newer)


@pytest.mark.parametrize("source", ["consul", "envoy"])
async def test_a_recovered_instance_continues_no_sequence_that_restarted_elsewhere(
    scene: SequenceScene, source: str
) -> None:
    found = await processes(scene)
    first = await begin(scene.client, 7, 5)
    [name] = [name for name, place in found.items() if place == first]
    other = "b" if name == "a" else "a"

    async def away(gone: bool) -> None:
        if source == "envoy":  # its own health check, while Consul shows the instance as passing
            triton = {"a": scene.rig.a, "b": scene.rig.b}[name]
            triton.serving = not gone
            await scene.rig.settled(1 if gone else 2)
        else:
            health = Health.CRITICAL if gone else Health.PASSING
            instances = scene.instance(name, health=health), scene.instance(other)
            await scene.publish(*instances, policy=policy(), healthy=1 if gone else 2)

    await away(True)
    assert await scene.client.ask(7, 10, start=True) == Answer(10, found[other])
    await away(False)
    assert await scene.client.ask(7, 17) == Answer(27, found[other])


async def test_a_new_instance_takes_no_running_sequence(scene: SequenceScene) -> None:
    found = await processes(scene)
    await scene.publish(scene.instance("a"), policy=policy(), healthy=1)
    homes = await scene.client.begin(MANY)
    assert set(homes.values()) == {found["a"]}
    await publish_both(scene)
    await assert_all_continue(scene.client, homes)
    assert len(set((await scene.client.begin(range(1001, 1101))).values())) == 2


async def test_running_sequences_stay_when_the_role_moves(scene: SequenceScene) -> None:
    found = await processes(scene)
    await publish_both(scene, Mode.ACTIVE_STANDBY, leader="a")
    homes = await scene.client.begin(MANY)
    assert set(homes.values()) == {found["a"]}
    await publish_both(scene, Mode.ACTIVE_STANDBY, leader="b")
    newer = await scene.client.begin(range(1001, 1101))
    assert set(newer.values()) == {found["b"]}
    await assert_all_continue(scene.client, homes)
    await publish_both(scene, Mode.ACTIVE_STANDBY, leader="a")
    await assert_all_continue(scene.client, newer)


async def test_a_draining_instance_finishes_its_sequences(scene: SequenceScene) -> None:
    found = await processes(scene)
    homes = await scene.client.begin(MANY)
    scene.rig.a.serving = False
    leaving = scene.instance("a", draining=True), scene.instance("b")
    await scene.publish(*leaving, policy=policy(), healthy=1)
    newer = await scene.client.begin(range(1001, 1101))
    assert set(newer.values()) == {found["b"]}
    await assert_all_continue(scene.client, homes)
    # Once its entry is gone, its sequences fail, because no other instance has their state.
    await scene.publish(scene.instance("b"), policy=policy(), healthy=1)
    for sequence, place in homes.items():
        if place == found["a"]:
            assert "UNAVAILABLE" in await failure(scene.client.ask(sequence, 1))
        else:
            assert (await scene.client.ask(sequence, 0)).place == place


async def test_an_unhealthy_instance_continues_no_sequence(scene: SequenceScene) -> None:
    found = await processes(scene)
    homes = await scene.client.begin(MANY)
    unhealthy = scene.instance("a", health=Health.CRITICAL, ill=True), scene.instance("b")
    await scene.publish(*unhealthy, policy=policy(), healthy=1)
    for sequence, place in homes.items():
        if place == found["a"]:
            assert "UNAVAILABLE" in await failure(scene.client.ask(sequence, 1))
            assert await begin(scene.client, sequence, sequence) == found["b"]
            homes[sequence] = found["b"]
    await publish_both(scene)
    await assert_all_continue(scene.client, homes)


async def test_mode_strict_applies_to_sequences(scene: SequenceScene) -> None:
    found = await processes(scene)
    await publish_both(scene, Mode.STRICT, leader="a")
    assert await begin(scene.client, 7, 5) == found["a"]
    await publish_both(scene, Mode.STRICT, leader="b")
    assert "UNAVAILABLE" in await failure(scene.client.ask(7, 1))
    assert await begin(scene.client, 8, 5) == found["b"]
    assert await scene.client.ask(8, 1) == Answer(6, found["b"])


async def test_in_mode_strict_a_sequence_waits_to_begin_and_not_to_continue(
    scene: SequenceScene,
) -> None:
    found = await processes(scene)
    await publish_both(scene, Mode.STRICT)
    assert await begin(scene.client, 7, 5) == found["a"]
    scene.rig.a.serving = scene.rig.b.serving = False
    await eventually(lambda: scene.rig.reachable(0), "no instance serves")
    assert "UNAVAILABLE" in await failure(scene.client.ask(7, 1))

    async def requests_wait() -> bool:
        return await scene.rig.envoy.stat(f"cluster.{SERVICE}.upstream_rq_retry") >= 3

    begun = asyncio.create_task(begin(scene.client, 8, 5))
    async with scene.client.stream("9") as stream:
        answer = asyncio.create_task(stream.ask(request(9, 3, start=True)))
        await eventually(requests_wait, "requests that wait")
        scene.rig.a.serving = True
        assert await begun == found["a"]
        assert await answer == Answer(3, found["a"])
    for sequence in (7, 8):
        assert await scene.client.ask(sequence, 1) == Answer(6, found["a"])


async def test_a_rebuilt_cluster_moves_no_sequence(scene: SequenceScene) -> None:
    await publish_both(scene)
    homes = await scene.client.begin(MANY)
    other = OutlierDetection(interval=9.0)
    changed = policy(outlier_detection=other)
    await scene.publish(scene.instance("a"), scene.instance("b"), policy=changed, healthy=2)
    await assert_all_continue(scene.client, homes)


async def test_a_release_moves_no_sequence(scene: SequenceScene) -> None:
    release = Release(tag="v2", percent=50)
    instances = scene.instance("a"), scene.instance("b", tags=("v2",))
    await scene.publish(*instances, policy=policy(release=release), healthy=2)
    homes = await scene.client.begin(MANY)
    assert len(set(homes.values())) == 2
    promoted, rolled_back = replace(release, percent=100), replace(release, rolled_back="it is bad")
    for in_force in (release, promoted, rolled_back, None):
        await scene.publish(*instances, policy=policy(release=in_force), healthy=2)
        for sequence, place in homes.items():
            assert (await scene.client.ask(sequence, 0)).place == place


async def test_a_sequence_fails_while_its_instance_is_unreachable_and_then_continues(
    scene: SequenceScene,
) -> None:
    """The network to an instance is cut until it is ejected; then it is back with its state."""
    found = await processes(scene)
    homes = await scene.client.begin(MANY)
    there = [sequence for sequence, place in homes.items() if place == found["a"]]
    scene.wires["a"].cut()
    for sequence in there:
        assert "UNAVAILABLE" in await failure(scene.client.ask(sequence, 1))
    ejected = f"cluster.{SERVICE}.outlier_detection.ejections_enforced_total"
    await eventually(lambda: scene.rig.envoy.stat(ejected), "it is ejected")
    await scene.wires["a"].restore()
    await assert_all_continue(scene.client, homes)


async def test_each_connection_has_its_own_sequences(scene: SequenceScene) -> None:
    await publish_both(scene)
    begun = await begin(scene.client, 7, 5)
    other = scene.another()
    try:
        assert MUST_START in await failure(other.ask(7, 1))
        assert await scene.client.ask(7, 1) == Answer(6, begun)
        assert await begin(other, 7, 100) == begun
        assert (await other.ask(7, 1)).sum == 101
    finally:
        await other.close()


async def test_a_header_distinguishes_sequences_of_the_same_id(scene: SequenceScene) -> None:
    """One id on two connections, whose workers share no state."""
    found = await processes(scene)
    first, second = ({HEADER: name} for name in ("first", "second"))
    await publish_both(scene, Mode.ACTIVE_STANDBY, leader="a")
    assert await scene.client.ask(7, 5, start=True, headers=first) == Answer(5, found["a"])
    other = scene.another()
    try:
        await publish_both(scene, Mode.ACTIVE_STANDBY, leader="b")
        assert await other.ask(7, 10, start=True, headers=second) == Answer(10, found["b"])
        assert MUST_START in await failure(scene.client.ask(7, 17, headers=second))
        assert await other.ask(7, 17, headers=second) == Answer(27, found["b"])
        assert MUST_START in await failure(other.ask(7, 1, headers=first))
    finally:
        await other.close()
    assert await scene.client.ask(8, 5, start=True, headers=first) == Answer(5, found["b"])
    assert "value of its header" in await failure(scene.client.ask(8, 1, headers=second))
    assert await scene.client.ask(8, 1, headers=first) == Answer(6, found["b"])


@pytest.mark.parametrize("interim", [Affinity(), Affinity(sequence_header="x-other")])
async def test_a_sequence_does_not_continue_after_a_policy_without_its_affinity(
    scene: SequenceScene, interim: Affinity
) -> None:
    found = await processes(scene)
    await publish_both(scene, Mode.ACTIVE_STANDBY, leader="a")
    assert await begin(scene.client, 7, 5) == found["a"]
    instances = scene.instance("a"), scene.instance("b")
    other = replace(policy(Mode.ACTIVE_STANDBY), affinity=interim)
    await scene.publish(*instances, policy=other, leader="b", healthy=2)
    assert await scene.client.ask(7, 10, start=True) == Answer(10, found["b"])
    await publish_both(scene, Mode.ACTIVE_STANDBY, leader="b")
    said = await failure(scene.client.ask(7, 17))
    assert MUST_START in said
    assert FORGOTTEN in said
    assert await begin(scene.client, 7, 8) == found["b"]
    assert await scene.client.ask(7, 1) == Answer(9, found["b"])


async def test_a_sequence_does_not_continue_after_another_service_had_its_route(
    scene: SequenceScene,
) -> None:
    found = await processes(scene)
    claiming = policy(match=Match(headers=(("x-team", "vision"),)))
    there = {"x-team": "vision"}

    async def other_has(its: TrafficPolicy, written: int) -> None:
        first_service = ServiceCatalog(
            SERVICE, (scene.instance("a"),), policy=policy(), since=PolicyIndexes(1, 1, 1)
        )
        since = PolicyIndexes(written, 2, written)
        other = ServiceCatalog("other", (scene.instance("b"),), policy=its, since=since)
        scene.rig.control_plane.catalog.set(Catalog((first_service, other)))
        for service in (SERVICE, "other"):
            await scene.rig.settled(1, service)

    await other_has(policy(), 2)
    assert await scene.client.ask(7, 5, start=True, headers=there) == Answer(5, found["a"])
    await other_has(claiming, 3)
    assert MUST_START in await failure(scene.client.ask(7, 1, headers=there))
    assert await scene.client.ask(7, 10, start=True, headers=there) == Answer(10, found["b"])
    await other_has(policy(), 4)
    assert FORGOTTEN in await failure(scene.client.ask(7, 17, headers=there))


async def test_two_services_can_have_sequences_of_the_same_id(scene: SequenceScene) -> None:
    """One client queries both, and a header selects the service."""
    found = await processes(scene)
    other = policy(match=Match(headers=(("x-service", "other"),)))
    catalog = Catalog(
        (
            ServiceCatalog(SERVICE, (scene.instance("a"),), Leader("a", 1), policy=policy()),
            ServiceCatalog("other", (scene.instance("b"),), Leader("b", 1), policy=other),
        )
    )
    scene.rig.control_plane.catalog.set(catalog)
    for service in (SERVICE, "other"):
        await scene.rig.settled(1, service)
    there = {"x-service": "other"}
    assert await scene.client.ask(7, 5, start=True) == Answer(5, found["a"])
    assert await scene.client.ask(7, 100, start=True, headers=there) == Answer(100, found["b"])
    assert await scene.client.ask(7, 6) == Answer(11, found["a"])
    assert await scene.client.ask(7, 1, end=True) == Answer(12, found["a"])
    assert await scene.client.ask(7, 1, headers=there) == Answer(101, found["b"])


async def test_a_sequence_that_has_not_begun_or_has_ended_is_rejected(scene: SequenceScene) -> None:
    await publish_both(scene)
    assert MUST_START in await failure(scene.client.ask(4711, 1))
    place = await begin(scene.client, 7, 5)
    assert await scene.client.ask(7, 1, end=True) == Answer(6, place)
    assert MUST_START in await failure(scene.client.ask(7, 1))
    assert "uncompressed" in await failure(
        scene.client.ask(7, 1, start=True, size=1000, compression_algorithm="gzip")
    )
    await begin(scene.client, 7, 8)
    assert (await scene.client.ask(7, 1)).sum == 9


async def test_sequences_with_string_ids_are_distinguished(scene: SequenceScene) -> None:
    await publish_both(scene)
    for initial in "zZ":
        name = initial * 128  # docs/decisions/0038
        assert MUST_START in await failure(scene.client.ask_by_name(name, 1))
        assert await scene.client.ask_by_name(name, 5, start=True) == 5
        assert await scene.client.ask_by_name(name, 6, end=True) == 11


async def test_the_lengths_that_envoy_reads_and_keeps_are_limited(scene: SequenceScene) -> None:
    """Triton's own limits apply too late to protect Envoy."""
    await publish_both(scene)
    name = "z" * 1100
    said = await failure(scene.client.ask_by_name(name, 5, start=True))
    assert "INVALID_ARGUMENT" in said
    assert "1024 bytes" in said
    async with scene.client.stream("7") as stream:
        longer = request(7, 5, start=True) | {"sequence_id": name}
        assert "1024 bytes" in str(await stream.ask(longer))
        many = request(7, 5, start=True) | {"parameters": {f"p{each}": 1 for each in range(40_000)}}
        assert "too many fields" in str(await stream.ask(many))
        assert isinstance(await stream.ask(request(7, 5, start=True)), Answer)


async def test_a_sequence_whose_first_request_fails_has_not_begun(scene: SequenceScene) -> None:
    await scene.publish(scene.instance("a"), policy=policy(), healthy=1)
    await begin(scene.client, 7, 5)
    scene.wires["a"].cut()
    assert "UNAVAILABLE" in await failure(scene.client.ask(7, 1, start=True))
    await scene.wires["a"].restore()
    assert MUST_START in await failure(scene.client.ask(7, 1))
    # For a string id Triton needs 128 characters: docs/decisions/0038
    assert MUST_START not in await failure(scene.client.ask_by_name("short", 5, start=True))
    assert ANOTHER_CONNECTION in await failure(scene.client.ask_by_name("short", 1))


async def test_a_last_request_that_fails_can_be_retried(scene: SequenceScene) -> None:
    await scene.publish(scene.instance("a"), policy=policy(), healthy=1)
    place = await begin(scene.client, 7, 5)
    scene.wires["a"].cut()
    assert "UNAVAILABLE" in await failure(scene.client.ask(7, 6, end=True))
    await scene.wires["a"].restore()
    assert await scene.client.ask(7, 6, end=True) == Answer(11, place)
    assert ANOTHER_CONNECTION in await failure(scene.client.ask(7, 1))


async def test_a_sequence_belongs_to_the_stream_where_it_begins(scene: SequenceScene) -> None:
    found = await processes(scene)
    await publish_both(scene, Mode.ACTIVE_STANDBY, leader="a")
    async with scene.client.stream("7") as stream:
        for sequence in (7, 8):
            assert await stream.ask(request(sequence, 5, start=True)) == Answer(5, found["a"])
        await publish_both(scene, Mode.ACTIVE_STANDBY, leader="b")
        for sequence in (8, 7):
            assert await stream.ask(request(sequence, 6)) == Answer(11, found["a"])
        assert MUST_START in str(await stream.ask(request(9, 1)))
        assert await stream.ask(request(7, 1, end=True)) == Answer(12, found["a"])
    async with scene.client.stream("8") as stream:
        assert MUST_START in str(await stream.ask(request(8, 1)))
        assert await stream.ask(request(8, 1, start=True)) == Answer(1, found["b"])
        assert await stream.ask(request(8, 1)) == Answer(2, found["b"])
    assert MUST_START in await failure(scene.client.ask(8, 1))


async def test_a_new_start_ends_the_sequence_of_another_stream_or_the_connection(
    scene: SequenceScene,
) -> None:
    found = await processes(scene)
    await publish_both(scene, Mode.ACTIVE_STANDBY, leader="a")
    assert await begin(scene.client, 7, 5) == found["a"]
    async with scene.client.stream("7") as stream:
        assert await stream.ask(request(8, 6, start=True)) == Answer(6, found["a"])
        await publish_both(scene, Mode.ACTIVE_STANDBY, leader="b")
        assert await begin(scene.client, 8, 1) == found["b"]
        assert MUST_START in str(await stream.ask(request(8, 1)))
        assert await scene.client.ask(8, 1) == Answer(2, found["b"])
        async with scene.client.stream("7") as other:
            assert await other.ask(request(7, 10, start=True)) == Answer(10, found["b"])
            assert MUST_START in await failure(scene.client.ask(7, 17))
            assert MUST_START in str(await stream.ask(request(7, 17)))
            assert await other.ask(request(7, 17)) == Answer(27, found["b"])


async def test_requests_of_all_sizes_belong_to_their_sequences(scene: SequenceScene) -> None:
    await publish_both(scene)
    text = b"\xff" * 3_000_000
    assert await scene.client.echo(text) == text
    large = 1_000_000
    for size in (large, 5 * large):  # more than Envoy buffers for any stream
        place = (await scene.client.ask(7, 5, start=True, size=size)).place
        assert await scene.client.ask(7, 6, size=size) == Answer(11, place)
    async with scene.client.stream("7") as stream:
        for sequence, size in ((7, large), (8, 1), (9, 20_000)):
            begun = await stream.ask(request(sequence, 5, start=True, size=size))
            assert isinstance(begun, Answer)
            again = await stream.ask(request(sequence, 6, size=size))
            assert again == Answer(11, begun.place)
    small = policy(limits=Limits(retry_body_bytes=64 * KIB))
    await scene.publish(scene.instance("a"), scene.instance("b"), policy=small, healthy=2)
    said = await failure(scene.client.ask(7, 1, start=True, size=large))
    assert "UNKNOWN" in said
    assert "Payload Too Large" in said
