"""Faults that Triton does not report: the verdict, and which instance gets the traffic."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tritonclient.grpc import aio

from sidecar.drill.injections.processes import stubs
from sidecar.drill.stage.exit_status import ended
from sidecar.local import consul_view, load
from sidecar.local.load import STREAM, UNARY
from sidecar.local.planning.plan import MODELS
from sidecar.triton.client import Triton
from tests.support.mesh.mesh import LiveMesh, unharmed
from tests.support.mesh.mesh_clients import check, question, watch
from tests.support.mesh.mesh_outside import metric, until
from tests.support.soak import pause, soak

pytestmark = pytest.mark.integration

ALL_MODELS = True

# One test edits a file of a loaded model, which changes the model set; another unloads a model, and
# recovery must not load it again during the test.
ENVIRONMENT = {
    "TRITON_SIDECAR_ELECTION__MISMATCH": "serve",
    "TRITON_SIDECAR_RECOVERY__LOAD": "false",
}


async def test_an_instance_with_wrong_answers_is_critical_and_avoided(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch = scene.primary, scene.timeline.epoch
        async with _answers_begin_with(mesh, victim, "The"):
            await scene.becomes(victim, "critical")
            reason = await mesh.reason(victim)
            assert "CANARY_WRONG_ANSWER" in reason
            assert "'One slow reply may', got 'The " in reason
            await scene.succeeded(victim, epoch)
            await mesh.avoided(victim, idle=True)
            await scene.flows()  # until all earlier answers are counted
            wrong_before_the_verdict = len(scene.load.unary.wrong)
            await scene.flows()
        await mesh.steady()
        await scene.flows()
    assert scene.load.unary.failed == []
    assert scene.load.streams.failed == []
    assert len(scene.load.unary.wrong) == wrong_before_the_verdict


async def _weighs(mesh: LiveMesh, instance: str, weight: int) -> bool:
    return (await mesh.hosts())[instance].weight == weight


@asynccontextmanager
async def _answers_begin_with(mesh: LiveMesh, instance: str, word: str) -> AsyncIterator[None]:
    """Within the context, one instance begins its answers to unknown words with `word`."""
    table = mesh.folder / instance / "models" / UNARY / "1" / "ngrams.json"
    original = table.read_text()
    edited = json.loads(original)
    edited["starts"] = [edited["tokens"].index(word)]
    try:
        table.write_text(json.dumps(edited))
        await mesh.repository(instance, UNARY, "load")
        yield
    finally:
        table.write_text(original)
        await mesh.repository(instance, UNARY, "load")


@soak  # as in test_mesh_faults.py; in test_mesh_recovery.py it recovers automatically
async def test_an_instance_with_an_unloaded_model_is_critical_and_avoided(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch = scene.primary, scene.timeline.epoch
        await mesh.repository(victim, UNARY, "unload")
        try:
            await scene.becomes(victim, "critical")
            await scene.succeeded(victim, epoch)
            await mesh.avoided(victim, idle=True)
            await scene.flows()  # until all earlier failures are counted
            failed_before_the_verdict = len(scene.load.unary.failed)
            await scene.flows()
        finally:
            await mesh.repository(victim, UNARY, "load")
        await mesh.steady()
        await scene.flows()
    assert len(scene.load.unary.failed) == failed_before_the_verdict
    assert scene.load.unary.wrong == []


async def test_streams_on_a_dead_process_fail_before_their_deadline(
    mesh: LiveMesh,
) -> None:
    async with mesh.under_load(unary=2, streams=8) as scene:
        victim, epoch = scene.primary, scene.timeline.epoch
        for stub in stubs(mesh.pid(victim), STREAM):
            os.kill(stub, signal.SIGKILL)
        await scene.becomes(victim, "critical")
        await scene.succeeded(victim, epoch)
        await mesh.avoided(victim)
        await until(lambda: mesh.reloaded(victim, STREAM), f"{STREAM} reloaded by {victim}")
        await mesh.steady()
        await scene.flows()
    failed = [failure.what for failure in scene.load.streams.failed]
    assert not any("DEADLINE_EXCEEDED" in what for what in failed), failed
    assert scene.load.unary.failed == []


@soak  # as in test_mesh_faults.py; in test_mesh_recovery.py it recovers automatically
async def test_an_instance_with_dead_stubs_is_critical_and_avoided(mesh: LiveMesh) -> None:
    # Few clients, because requests that already wait for a dead process keep waiting.
    async with mesh.under_load(unary=4) as scene:
        victim, epoch = scene.primary, scene.timeline.epoch
        now, since = mesh.now, mesh.written(mesh.sidecar_of(victim))
        for stub in stubs(mesh.pid(victim), UNARY):
            os.kill(stub, signal.SIGKILL)
        async with Triton(now.instance(victim).triton.grpc) as triton:
            assert await triton.server_ready(30)
        await scene.becomes(victim, "critical")
        # The first CRITICAL: recovery kills the Triton at once, and later ones say it is gone.
        events = mesh.events(mesh.sidecar_of(victim), since)
        verdicts = [event["after"] for event in events if event["event"] == "verdict_changed"]
        reason = next(each for each in verdicts if each.startswith("CRITICAL"))
        assert "MODEL_STUB_DIED" in reason
        await scene.succeeded(victim, epoch)
        await mesh.avoided(victim)
        # New clients get answers.
        reference = now.instance(scene.primary).triton.grpc
        clients = load.load(now.envoy.grpc, reference, unary=16, streams=2, pause=pause(16))
        async with clients as later:
            await until(lambda: len(later.unary.done) > 40 and later.streams.done, "answers")
        await until(lambda: mesh.reloaded(victim, UNARY), f"{UNARY} reloaded by {victim}")
        await mesh.steady()
    unharmed(later)
    assert scene.load.unary.wrong == []


async def test_an_instance_with_a_busy_model_keeps_its_role_and_loses_weight(
    mesh: LiveMesh,
) -> None:
    """Its queue is longer than it can finish in time, but it makes progress."""
    await mesh.steady()
    primary = await mesh.primary()
    address = mesh.instance(primary).triton.grpc
    before = mesh.written(mesh.sidecar_of(primary))
    async with _queue(address, seconds=0.4, waiting=20):
        await until(lambda: _status(mesh, primary, "warning"), f"a warning about {primary}")

        async def busy() -> bool:
            reason = await mesh.reason(primary)
            return "WARNING MODEL_BUSY" in reason or "WARNING CANARY_LATE" in reason

        await until(busy, "the reason of the warning")

        async def lighter() -> bool:
            return (await mesh.hosts())[primary].weight in (50, 25, 10)

        await until(lighter, "less weight in Envoy")
    await mesh.steady()
    await until(lambda: _weighs(mesh, primary, 100), "all of its weight in Envoy")
    assert await mesh.primary() == primary
    events = mesh.events(mesh.sidecar_of(primary), before)
    assert not [event for event in events if "CRITICAL" in event.get("after", "")]
    assert not [event for event in events if event["event"] == "role_changed"]


@asynccontextmanager
async def _queue(address: str, *, seconds: float, waiting: int) -> AsyncIterator[None]:
    """Keep `waiting` requests on a Triton, each of which takes `seconds`."""
    delayed = {"max_tokens": 4, "delay_ms": seconds * 1000 / 4}

    async def ask(client: aio.InferenceServerClient) -> None:
        while True:
            await client.infer(UNARY, question("Hello", **delayed))

    async with aio.InferenceServerClient(address) as client:
        asking = [asyncio.create_task(ask(client)) for _ in range(waiting)]
        try:
            yield
        finally:
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)


async def _status(mesh: LiveMesh, instance: str, wanted: str) -> bool:
    async with consul_view.connect(mesh.now) as consul:
        return (await consul_view.observe(consul))[instance].status == wanted


async def test_maintenance_of_the_primary_moves_the_role(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch = scene.primary, scene.timeline.epoch
        await mesh.maintain(victim, True)
        try:
            await scene.succeeded(victim, epoch)
            await mesh.avoided(victim, idle=True)
            sidecar = mesh.instance(victim).sidecar
            assert await check(sidecar.grpc, "") == "NOT_SERVING"
            state = await metric(sidecar.metrics, "triton_sidecar_verdict", state="maintenance")
            assert state == 1
            await scene.flows()
        finally:
            await mesh.maintain(victim, False)
        await mesh.steady()
    unharmed(scene.load)


# --- grpc.health.v1 of the sidecar ------------------------------------------------------------


async def test_a_sidecar_answers_health_checks_per_model(mesh: LiveMesh) -> None:
    await mesh.steady()
    address = mesh.now.instances[0].sidecar.grpc
    said = {service: await check(address, service) for service in ("", *MODELS, "unheard-of")}
    assert said == {"": "SERVING", **dict.fromkeys(MODELS, "SERVING"), "unheard-of": "NOT_FOUND"}


async def test_a_sidecar_notifies_watchers_before_it_stops(mesh: LiveMesh) -> None:
    await mesh.steady()
    standby = await mesh.standby()
    address = mesh.instance(standby).sidecar.grpc
    async with (
        watch(address, "") as whole,
        watch(address, UNARY) as model,
        watch(address, "unheard-of") as unknown,
    ):
        await until(lambda: whole and model and unknown, "the first status for each watcher")
        assert [whole, model, unknown] == [["SERVING"], ["SERVING"], ["SERVICE_UNKNOWN"]]
        with mesh.unsupervised():
            pid = mesh.signal(mesh.sidecar_of(standby), signal.SIGTERM)
            assert await ended(pid) == 0
        ends = "the end of each watch"
        await until(lambda: all("UNAVAILABLE" in said for said in (whole, model, unknown)), ends)
    assert whole == model == ["SERVING", "NOT_SERVING", "UNAVAILABLE"]
    assert unknown == ["SERVICE_UNKNOWN", "UNAVAILABLE"]
