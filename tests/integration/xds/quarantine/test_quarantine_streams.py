"""A stream whose first message crashes its server, on a real Envoy: it crashes two at most."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from sidecar.xds.quarantine.suspects import PROOF
from tests.support.soak import soak
from tests.support.xds.query_of_death import (
    ENDLESS,
    LONG,
    NOT_RETRIED,
    PINGING,
    POISON,
    REFUSED,
    CrashScene,
    crash_scene,
    infer_request,
    script_errors,
    stream_answers,
)
from tests.support.xds.waiting import PATIENCE, eventually

pytestmark = pytest.mark.integration

CRASHING = infer_request(POISON)
UNKNOWN = f"Request for unknown model: '{REFUSED}"


@pytest.fixture
async def scene() -> AsyncIterator[CrashScene]:
    async with crash_scene() as made:
        yield made
        assert await script_errors(made) == 0


async def quarantined(made: CrashScene) -> None:
    """Send the crashing request until it is quarantined, and wait until all instances are back."""
    [said] = await stream_answers(made.rig.client, CRASHING)
    assert said.startswith(f"FAILED_PRECONDITION: {REFUSED}")
    await made.rig.settled(hosts=3)


@pytest.mark.parametrize("goods", [16, pytest.param(64, marks=soak)])
async def test_a_crashing_stream_takes_down_two_at_most_and_fails_no_other(
    scene: CrashScene, goods: int
) -> None:
    await scene.run(goods, refusals=30, streams=True)
    assert len(scene.falls) <= 2
    assert scene.failures == []


async def test_a_freezing_stream_takes_down_two_at_most_and_fails_no_other() -> None:
    async with crash_scene(freezes=True, policy=PINGING) as made:
        await made.run(16, refusals=30, streams=True)
        assert len(made.falls) <= 2
        assert made.failures == []


async def test_a_client_that_reopens_a_quarantined_stream_gets_tritons_error(
    scene: CrashScene,
) -> None:
    await quarantined(scene)
    crashes = scene.falls.total()
    assert crashes == 2 + PROOF
    other = infer_request(b"harmless")
    for messages in ((CRASHING,), (CRASHING, other), (infer_request(POISON, "x"), other, other)):
        first, *others = await stream_answers(scene.rig.client, *messages)
        assert first.startswith(UNKNOWN)
        assert set(others) <= scene.tritons.keys()
        assert len(others) == len(messages) - 1
    assert scene.falls.total() == crashes


async def test_a_first_message_in_many_frames_passes_unchanged(scene: CrashScene) -> None:
    await quarantined(scene)
    for size in (0, 1, 70_000, 900_000, 3_000_000):
        messages = [infer_request(bytes(size)), infer_request(bytes(size))]
        served = await stream_answers(scene.rig.client, *messages)
        assert len(served) == 2
        assert set(served) <= scene.tritons.keys()
    assert await stream_answers(scene.rig.client) == []
    large = infer_request(bytes(400_000) + POISON)
    crashes = scene.falls.total()
    [said] = await stream_answers(scene.rig.client, large)
    assert REFUSED in said
    await scene.rig.settled(hosts=3)
    [again] = await stream_answers(scene.rig.client, large)
    assert again.startswith(UNKNOWN)
    assert scene.falls.total() == crashes + 2 + PROOF


async def test_a_message_that_is_too_large_to_identify_crashes_two_at_most(
    scene: CrashScene,
) -> None:
    [said] = await stream_answers(scene.rig.client, infer_request(bytes(2_000_000) + POISON))
    assert said.startswith(NOT_RETRIED)
    assert scene.falls.total() == 2


async def test_without_a_control_plane_a_stream_still_crashes_only_two(scene: CrashScene) -> None:
    await scene.rig.control_plane.stop()
    [said] = await stream_answers(scene.rig.client, CRASHING)
    assert said.startswith(NOT_RETRIED)
    assert scene.falls.total() == 2


async def test_a_crash_by_one_of_several_messages_stops_at_two(scene: CrashScene) -> None:
    """Envoy cannot tell which of the messages it was."""
    [said] = await stream_answers(scene.rig.client, infer_request(LONG), CRASHING)
    assert said.startswith(NOT_RETRIED)
    assert scene.falls.total() == 2


async def test_compressed_messages_are_distinguished(scene: CrashScene) -> None:
    gzip = {"compression": grpc.Compression.Gzip}
    crashing, other = (infer_request(text + bytes(2000)) for text in (POISON, b"harmless"))
    client = scene.rig.client
    [said] = await stream_answers(client, crashing, **gzip)
    assert said.startswith(f"FAILED_PRECONDITION: {REFUSED}")
    await eventually(lambda: not scene.down, "all are back")
    await scene.rig.settled(hosts=3)
    with pytest.raises(grpc.aio.AioRpcError, match=REFUSED):
        await client.infer(crashing, timeout=PATIENCE, **gzip)
    await scene.rig.settled(hosts=3)
    crashes = scene.falls.total()
    [said] = await stream_answers(client, crashing, **gzip)
    assert said.startswith(UNKNOWN)
    [served] = await stream_answers(client, other, **gzip)
    assert served in scene.tritons
    assert await client.infer(other, timeout=PATIENCE, **gzip)
    assert scene.falls.total() == crashes


async def test_the_error_does_not_contain_a_long_request_id(scene: CrashScene) -> None:
    await quarantined(scene)
    other = infer_request(b"harmless")
    for length in (300, 70_000):
        first, served = await stream_answers(
            scene.rig.client, infer_request(POISON, "x" * length), other
        )
        assert first.startswith(UNKNOWN)
        assert served in scene.tritons


async def test_concurrent_requests_are_answered_even_if_a_trial_never_ends(
    scene: CrashScene,
) -> None:
    endless = [infer_request(LONG + ENDLESS + bytes([number])) for number in range(4)]
    streams = [
        asyncio.create_task(stream_answers(scene.rig.client, one, answers=3)) for one in endless
    ]
    [said] = await stream_answers(scene.rig.client, CRASHING)
    assert said.startswith(f"FAILED_PRECONDITION: {REFUSED}")
    for found in await asyncio.gather(*streams):
        assert len(found) == 3
        assert set(found) <= scene.tritons.keys()


@pytest.mark.parametrize("count", [8, pytest.param(64, marks=soak)])
async def test_concurrent_requests_are_answered(scene: CrashScene, count: int) -> None:
    """All of them are in flight during both crashes; later each is tried alone."""
    others = [infer_request(LONG + number.to_bytes(2)) for number in range(count)]
    streams = [
        asyncio.create_task(stream_answers(scene.rig.client, each)) for each in (*others, CRASHING)
    ]
    *found, [said] = await asyncio.gather(*streams)
    assert said.startswith(f"FAILED_PRECONDITION: {REFUSED}")
    assert [said for [said] in found if said not in scene.tritons] == []
    assert scene.falls.total() == 2 + PROOF
