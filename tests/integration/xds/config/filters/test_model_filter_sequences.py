"""Sequences where requests are routed by their model: real Envoy and Tritons."""

from collections.abc import AsyncIterator, Iterator

import pytest

from sidecar.traffic.policy import ModelRule, RoutingMode
from tests.support.triton_server import TritonServer
from tests.support.xds.sequence_rig import (
    MODEL,
    NAMED,
    SequenceScene,
    failure,
    policy,
    request,
    two_tritons,
)

pytestmark = pytest.mark.integration
POLICY = policy(routing=RoutingMode.BY_MODEL, models=(("alias", ModelRule(NAMED)),))
MODELS = (MODEL, NAMED, "blob")


@pytest.fixture(scope="module")
def tritons(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[TritonServer, TritonServer]]:
    with two_tritons(tmp_path_factory.mktemp("models")) as pair:
        yield pair


@pytest.fixture
async def scene(tritons: tuple[TritonServer, TritonServer]) -> AsyncIterator[SequenceScene]:
    async with SequenceScene.running(tritons) as made:
        yield made
        for script in ("sequences", "models", "model_frames"):
            assert await made.rig.envoy.stat(f"http.triton.lua.{script}.errors") == 0


async def publish(scene: SequenceScene, **unusable: str) -> None:
    """Publish both instances, each with a model that it may not serve."""
    both = [
        scene.instance(
            name,
            models=MODELS,
            unusable=((unusable[name], "CANARY_FAILED"),) if name in unusable else (),
        )
        for name in "ab"
    ]
    await scene.publish(*both, policy=POLICY, healthy=2)


async def test_a_sequence_continues_unless_its_model_may_not_be_used_there(
    scene: SequenceScene,
) -> None:
    await publish(scene)
    homes = await scene.client.begin(range(1, 41))
    assert len(set(homes.values())) == 2
    # Another model is unhealthy on one of them, and on the other.
    for name in "ab":
        await publish(scene, **{name: NAMED})
        for sequence, place in homes.items():
            assert (await scene.client.ask(sequence, 0)).place == place
    await publish(scene, a=MODEL)
    newer = await scene.client.begin(range(101, 111))
    [left] = set(newer.values())
    for sequence, place in homes.items():
        if place == left:
            assert (await scene.client.ask(sequence, 0)).place == place
        else:
            assert "UNAVAILABLE" in await failure(scene.client.ask(sequence, 0))
    await publish(scene)
    for sequence, place in newer.items():
        assert (await scene.client.ask(sequence, 0)).place == place


async def test_sequences_in_streams_and_other_models_work_as_ever(scene: SequenceScene) -> None:
    await publish(scene)
    async with scene.client.stream("7") as stream:
        first = await stream.ask(request(7, 5, start=True))
        then = await stream.ask(request(7, 6))
    assert not isinstance(first, str)
    assert not isinstance(then, str)
    assert (first.sum, then.sum, then.place) == (5, 11, first.place)
    assert await scene.client.echo(b"\xff") == b"\xff"
    name = "z" * 128  # docs/decisions/0038
    assert await scene.client.ask_by_name(name, 3, start=True) == 3
