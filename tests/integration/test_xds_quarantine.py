"""A request that takes its server down, on a real Envoy: it gets two, and nobody else fails."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from tritonclient.grpc import service_pb2

from sidecar.traffic.policy import Connection, Retry
from tests.integration.deadly_play import POISON, Play, play
from tests.integration.xds_rig import ANY, PATIENCE, UNHURRIED, eventually

pytestmark = pytest.mark.integration

# The keepalive has to notice a frozen one, but not that this process is busy.
PINGING = replace(UNHURRIED, connection=Connection(keepalive_timeout=3.0))


async def refusal(made: Play, request: bytes, timeout: float = PATIENCE) -> str:
    """What a client is told; nothing if it is answered."""
    try:
        await made.rig.client.infer(request, timeout=timeout)
    except grpc.aio.AioRpcError as error:
        shown = [*error.initial_metadata(), *error.trailing_metadata()]
        assert "x-envoy-ratelimited" not in [name for name, _ in shown]
        return f"{error.code().name}: {error.details()}"
    return ""


def infer_request(text: bytes, name: str = "") -> bytes:
    found: Any = service_pb2
    message = found.ModelInferRequest(model_name="chat", id=name, raw_input_contents=[text])
    return bytes(message.SerializeToString())


@pytest.fixture
async def mortal() -> AsyncIterator[Play]:
    async with play() as made:
        yield made


@pytest.mark.parametrize("goods", [16, 64])
async def test_it_takes_down_two_and_nobody_else_fails(mortal: Play, goods: int) -> None:
    await mortal.run(goods, refusals=30)
    assert len(mortal.falls) <= 2
    assert mortal.failures == []
    assert mortal.refusals[-1].startswith("FAILED_PRECONDITION: this request has taken down ")


async def test_so_does_one_that_freezes_its_server() -> None:
    async with play(freezes=True, policy=PINGING) as made:
        await made.run(16, refusals=30)
        assert len(made.falls) <= 2
        assert made.failures == []


async def test_nor_do_more_go_down_with_a_client_that_gives_up_and_comes_back(mortal: Play) -> None:
    await mortal.run(16, refusals=30, timeout=0.3)
    assert len(mortal.falls) <= 2
    assert mortal.failures == []


async def test_without_it_all_go_down() -> None:
    async with play(quarantine=0.0) as made:
        for _ in range(2):
            assert await refusal(made, POISON)
        assert len(made.falls) == 3


async def test_it_is_known_by_what_it_asks_and_not_by_its_id(mortal: Play) -> None:
    poison = infer_request(POISON * 10_000, "one")
    assert "has taken down" in await refusal(mortal, poison)
    fell = mortal.falls.total()
    for request in (poison, infer_request(POISON * 10_000), infer_request(POISON * 10_000, "two")):
        assert "has taken down" in await refusal(mortal, request)
    assert await refusal(mortal, infer_request(b"harmless")) == ""
    assert mortal.falls.total() == fell


async def test_it_is_forgotten_after_a_while() -> None:
    async with play(quarantine=3.0) as made:
        assert "has taken down" in await refusal(made, POISON)
        fell = made.falls.total()
        suspects = made.rig.control_plane.publication.suspects
        await eventually(lambda: not suspects.value, "it is forgotten")
        await made.rig.settled(hosts=3)
        assert "has taken down" in await refusal(made, POISON)
        assert made.falls.total() > fell


async def test_without_a_control_plane_it_still_gets_two(mortal: Play) -> None:
    await mortal.rig.control_plane.stop()
    said = await refusal(mortal, POISON)
    assert said.startswith("UNAVAILABLE: two instances went down with this request")
    assert len(mortal.falls) == 2


async def test_an_answer_is_no_death_and_costs_no_more_attempts(mortal: Play) -> None:
    mortal.policy = replace(UNHURRIED, retry=Retry(num_retries=1))
    mortal.publish()
    await mortal.rig.settled(hosts=3)
    for triton in mortal.tritons.values():
        triton.fails[ANY] = grpc.StatusCode.UNAVAILABLE
    before = await mortal.rig.envoy.stat("cluster.triton.upstream_rq_retry")
    forged = [("x-triton-sidecar-tried", "10.0.0.1:1"), ("x-triton-sidecar-tried", "10.0.0.2:1")]
    call = mortal.rig.client.infer(b"x", metadata=forged, timeout=PATIENCE)
    assert (await call.details()).endswith(" was told")
    assert await mortal.rig.envoy.stat("cluster.triton.upstream_rq_retry") == before + 1
    assert not mortal.rig.control_plane.publication.suspects.value


async def test_one_that_is_answered_in_the_end_was_none(mortal: Play) -> None:
    victims = [mortal.tritons[name] for name in ("a", "b", "c")]
    for triton in victims[:2]:
        triton.die_on_request = True
    # Whichever of the others is second, at most two connections are lost with it.
    victims[2].die_on_request = False
    assert await refusal(mortal, b"harmless") == ""
    assert not mortal.rig.control_plane.publication.suspects.value
    assert await mortal.rig.envoy.stat("http.triton.lua.quarantine.error") == 0
