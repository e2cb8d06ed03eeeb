"""A request that crashes its server, on a real Envoy: two at most crash, and no other fails."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from tritonclient.grpc import service_pb2

from sidecar.traffic.policy import Retry
from sidecar.xds.config.filters.quarantine_filter import ANSWERED, TRIED
from sidecar.xds.quarantine import quarantine
from sidecar.xds.quarantine.suspects import PROOF
from tests.support.soak import soak
from tests.support.xds.control_plane import UNHURRIED
from tests.support.xds.fake_tritons import ANY
from tests.support.xds.query_of_death import (
    NOT_RETRIED,
    PINGING,
    POISON,
    CrashScene,
    crash_scene,
    infer_request,
    script_errors,
)
from tests.support.xds.waiting import PATIENCE, eventually

pytestmark = pytest.mark.integration
PROVEN = "FAILED_PRECONDITION: "


async def refusal(made: CrashScene, request: bytes, timeout: float = PATIENCE) -> str:
    """The error that the client gets; empty if the request is answered."""
    try:
        await made.rig.client.infer(request, timeout=timeout)
    except grpc.aio.AioRpcError as error:
        shown = [*error.initial_metadata(), *error.trailing_metadata()]
        assert ANSWERED not in [name for name, _ in shown]
        return f"{error.code().name}: {error.details()}"
    return ""


@pytest.fixture
async def scene() -> AsyncIterator[CrashScene]:
    async with crash_scene() as made:
        yield made


@pytest.mark.parametrize("goods", [16, pytest.param(64, marks=soak)])
async def test_a_crashing_request_takes_down_two_at_most_and_fails_no_other(
    scene: CrashScene, goods: int
) -> None:
    await scene.run(goods, refusals=30)
    assert len(scene.falls) <= 2
    assert scene.failures == []
    assert scene.refusals[-1].startswith(PROVEN)


async def test_a_freezing_request_takes_down_two_at_most_and_fails_no_other() -> None:
    async with crash_scene(freezes=True, policy=PINGING) as made:
        await made.run(16, refusals=30)
        assert len(made.falls) <= 2
        assert made.failures == []


async def test_a_client_that_times_out_and_retries_takes_down_two_at_most(
    scene: CrashScene,
) -> None:
    await scene.run(16, refusals=30, timeout=0.3)
    assert len(scene.falls) <= 2
    assert scene.failures == []


async def test_without_a_quarantine_all_instances_go_down() -> None:
    async with crash_scene(quarantine=0.0) as made:
        for _ in range(2):
            assert await refusal(made, POISON)
        assert len(made.falls) == 3


async def test_a_request_is_identified_by_its_content_and_not_by_its_id(scene: CrashScene) -> None:
    poison = infer_request(POISON * 10_000, "one")
    assert (await refusal(scene, poison)).startswith(PROVEN)
    crashes = scene.falls.total()
    for request in (poison, infer_request(POISON * 10_000), infer_request(POISON * 10_000, "two")):
        assert (await refusal(scene, request)).startswith(PROVEN)
    assert await refusal(scene, infer_request(b"harmless")) == ""
    assert scene.falls.total() == crashes


async def test_the_order_of_parameters_does_not_change_a_requests_identity(
    scene: CrashScene,
) -> None:
    def ask(*names: str) -> bytes:
        found: Any = service_pb2
        parts = [
            found.ModelInferRequest(parameters={name: found.InferParameter(int64_param=1)})
            for name in names
        ]
        last = found.ModelInferRequest(model_name="chat", raw_input_contents=[POISON])
        return b"".join(bytes(part.SerializeToString()) for part in (*parts, last))

    assert (await refusal(scene, ask("one", "two"))).startswith(PROVEN)
    crashes = scene.falls.total()
    assert (await refusal(scene, ask("two", "one"))).startswith(PROVEN)
    assert scene.falls.total() == crashes


async def test_a_suspect_is_tried_even_if_its_client_cancels(scene: CrashScene) -> None:
    client = asyncio.create_task(refusal(scene, POISON))
    suspects = scene.rig.control_plane.publication.suspects
    await eventually(lambda: suspects.value, "it is a suspect")
    client.cancel()
    await eventually(lambda: scene.falls.total() == 2 + PROOF, "it is proven")
    assert (await refusal(scene, POISON)).startswith(PROVEN)
    assert scene.falls.total() == 2 + PROOF


async def test_a_request_that_never_reached_an_instance_is_not_suspected(scene: CrashScene) -> None:
    """The connection to the second instance is refused, and the third one answers."""
    first, second, third = (scene.tritons[name] for name in ("a", "b", "c"))
    # Either of the two may be next.
    for other in (second, third):
        first.die_on_request = True
        other.wire.cut()
        for _ in range(4):
            assert await refusal(scene, b"harmless") == ""
        await other.wire.restore()
    assert not scene.rig.control_plane.publication.suspects.value
    assert scene.rig.control_plane.sample("trials_total") == 0


async def test_large_requests_pass_while_others_are_suspects(scene: CrashScene) -> None:
    await scene.rig.control_plane.stop()
    assert (await refusal(scene, POISON)).startswith(NOT_RETRIED)
    # Each worker now compares requests with the suspect.
    for size in (1, 1 << 20, 40 << 20):
        assert await refusal(scene, infer_request(bytes(size))) == ""


async def test_a_request_on_a_lost_machine_is_not_suspected(scene: CrashScene) -> None:
    """Both instances of a host die, with requests in flight; the third instance answers."""
    scene.losing = 2
    assert await refusal(scene, b"harmless") == ""
    assert scene.losing == 0
    assert sum(triton.served for triton in scene.tritons.values()) == 1


async def test_a_suspect_is_tried_on_a_new_instance_if_no_crashed_one_recovers(
    scene: CrashScene,
) -> None:
    scene.gone_for_good = True
    client = asyncio.create_task(refusal(scene, POISON))
    suspects = scene.rig.control_plane.publication.suspects
    await eventually(lambda: suspects.value, "it is a suspect")
    await scene.join("d")
    assert (await client).startswith(PROVEN)
    assert len(scene.falls) == 3
    assert scene.falls["d"] == PROOF


async def test_a_quarantine_expires() -> None:
    async with crash_scene(quarantine=6.0) as made:  # several times longer than the trials take
        assert (await refusal(made, POISON)).startswith(PROVEN)
        crashes = made.falls.total()
        suspects = made.rig.control_plane.publication.suspects
        await eventually(lambda: not suspects.value, "it is forgotten")
        await made.rig.settled(hosts=3)
        assert (await refusal(made, POISON)).startswith(PROVEN)
        assert made.falls.total() > crashes


async def test_without_a_control_plane_a_request_still_crashes_only_two(scene: CrashScene) -> None:
    await scene.rig.control_plane.stop()
    said = await refusal(scene, POISON)
    assert said.startswith(NOT_RETRIED)
    assert len(scene.falls) == 2


async def test_a_request_that_is_only_suspected_passes_without_a_control_plane(
    scene: CrashScene,
) -> None:
    scene.gone_for_good = True
    client = asyncio.create_task(refusal(scene, POISON))
    suspects = scene.rig.control_plane.publication.suspects
    await eventually(lambda: suspects.value, "it is a suspect")
    scene.left.immune = True
    await eventually(lambda: not scene.rig.control_plane.busy, "Envoy knows")
    await scene.rig.control_plane.stop()
    assert (await client).startswith(NOT_RETRIED)

    async def passes() -> bool:
        return await refusal(scene, POISON) == ""

    await eventually(passes, "the remaining instance answers the same request")


async def test_a_suspect_without_a_timely_verdict_reaches_no_third_instance(
    scene: CrashScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "LONGEST", 0.2)
    scene.gone_for_good = True
    assert (await refusal(scene, POISON)).startswith(NOT_RETRIED)
    attempts = scene.left.asked
    await asyncio.sleep(6)  # longer than a worker keeps a suspect without the control plane
    for _ in range(4):
        assert (await refusal(scene, POISON)).startswith(NOT_RETRIED)
    assert scene.left.asked == attempts


async def test_a_quarantined_request_stays_rejected_without_a_control_plane(
    scene: CrashScene,
) -> None:
    assert (await refusal(scene, POISON)).startswith(PROVEN)
    await eventually(lambda: not scene.rig.control_plane.busy, "Envoy knows")
    await scene.rig.control_plane.stop()
    crashes = scene.falls.total()
    for _ in range(8):
        assert (await refusal(scene, POISON)).startswith(PROVEN)
    assert scene.falls.total() == crashes


async def test_an_error_answer_is_not_a_crash_and_gets_no_extra_attempts(scene: CrashScene) -> None:
    scene.policy = replace(UNHURRIED, retry=Retry(num_retries=1))
    scene.publish()
    await scene.rig.settled(hosts=3)
    for triton in scene.tritons.values():
        triton.fails[ANY] = grpc.StatusCode.UNAVAILABLE
    before = await scene.rig.envoy.stat("cluster.triton.upstream_rq_retry")
    forged = [(TRIED, f"10.0.0.{number}:1 {100 * number} 0") for number in range(4)]
    call = scene.rig.client.infer(b"x", metadata=forged, timeout=PATIENCE)
    assert (await call.details()).endswith(" was told")
    assert await scene.rig.envoy.stat("cluster.triton.upstream_rq_retry") == before + 1
    assert not scene.rig.control_plane.publication.suspects.value
    assert scene.rig.control_plane.sample("trials_total") == 0
    assert await script_errors(scene) == 0


async def test_a_request_that_is_finally_answered_is_not_suspected(scene: CrashScene) -> None:
    victims = [scene.tritons[name] for name in ("a", "b", "c")]
    for triton in victims[:2]:
        triton.die_on_request = True
    # Whichever of the others is second, the request loses at most two connections.
    victims[2].die_on_request = False
    assert await refusal(scene, b"harmless") == ""
    assert not scene.rig.control_plane.publication.suspects.value
    assert await script_errors(scene) == 0
