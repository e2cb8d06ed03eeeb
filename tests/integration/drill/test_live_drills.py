"""Live drills on a real mesh: ordered through Consul, injected and undone by the sidecar there."""

import asyncio
import json
import signal
import subprocess

import pytest

from sidecar.drill.live import live
from sidecar.drill.live.precheck import DrillRefused
from sidecar.election.keys.history import DrillEntry
from sidecar.injection.rules import Code, Fault
from sidecar.operator import operator_client
from sidecar.operator.operator_client import OperatorClient
from tests.support.frozen import state
from tests.support.live_drill import drill_process, operator
from tests.support.mesh.mesh import LiveMesh, unharmed
from tests.support.mesh.mesh_outside import metric, sidecar, until

pytestmark = pytest.mark.integration

ENVIRONMENT = {
    "TRITON_SIDECAR_DRILL__ALLOW": '["freeze", "sidecar-frozen"]',
    # What is frozen has to be thawed, not killed.
    "TRITON_SIDECAR_RECOVERY__DRY_RUN": "true",
}
LAST = "triton_sidecar_last_drill_timestamp_seconds"


async def injected(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    assert await asyncio.to_thread(process.stdout.readline) == "on\n"


async def thawed(mesh: LiveMesh, victim: str, pid: int) -> None:
    """Wait until a Triton runs again, and all is well; it was not restarted."""
    await until(lambda: state(pid) != "T", f"{victim} is thawed")
    await mesh.steady()
    assert not mesh.restarted(victim, pid)


async def quiet(mesh: LiveMesh) -> None:
    """Wait until all is well, and the lock of a killed drill is free."""
    await mesh.steady()
    async with operator(mesh.now.consul.http) as client:

        async def free() -> bool:
            return (await operator_client.read_status(client)).drill is None

        await until(free, "no drill runs")


async def measured(address: str) -> None:
    """Wait until a sidecar's metrics have the last drill."""
    await until(lambda: metric(address, LAST), "the last drill is measured")


async def printed(mesh: LiveMesh, *command: str) -> str:
    """What a command prints; in a thread, or the drill could not renew its session meanwhile."""
    done = await asyncio.to_thread(sidecar, *command, f"--mesh={mesh.folder}")
    return done.stdout


async def drills(client: OperatorClient) -> tuple[DrillEntry, ...]:
    return (await operator_client.read_history(client, 20)).drills


async def test_a_freeze_moves_the_role_and_costs_no_request(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene, operator(mesh.now.consul.http) as client:
        victim, epoch = scene.primary, scene.timeline.epoch
        pid, since = mesh.pid(victim), mesh.written(mesh.sidecar_of(victim))
        async with live.drill(client, "freeze", Fault.FREEZE, victim, seconds=60.0):
            assert state(pid) == "T"
            shown = json.loads(await printed(mesh, "list", "--json"))["drill"]
            assert (shown["victim"], shown["scenario"]) == (victim, "freeze")
            assert f"freeze on {victim}" in await printed(mesh, "list")
            await scene.succeeded(victim, epoch)
        await thawed(mesh, victim, pid)
        await scene.flows()
        told = {each["event"] for each in mesh.events(mesh.sidecar_of(victim), since)}
        assert {"drill_began", "drill_ended"} <= told
        [entry] = await drills(client)
        assert (entry.victim, entry.outcome) == (victim, "done")
        assert f"freeze on {victim}, done" in await printed(mesh, "history")
    unharmed(scene.load, streams=False)
    for instance in mesh.now.instances:
        await measured(instance.sidecar.metrics)


async def test_the_triton_of_a_killed_drill_is_thawed(mesh: LiveMesh) -> None:
    await quiet(mesh)
    victim = await mesh.primary()
    pid = mesh.pid(victim)
    with drill_process(mesh.now.consul.http, victim) as process:
        await injected(process)
        assert state(pid) == "T"
        process.send_signal(signal.SIGKILL)
        await thawed(mesh, victim, pid)
    await quiet(mesh)


async def test_the_triton_of_a_killed_sidecar_is_thawed_at_once(mesh: LiveMesh) -> None:
    await quiet(mesh)
    victim = await mesh.standby()
    pid = mesh.pid(victim)
    with drill_process(mesh.now.consul.http, victim) as process:
        await injected(process)
        assert state(pid) == "T"
        mesh.signal(mesh.sidecar_of(victim), signal.SIGKILL)
        await thawed(mesh, victim, pid)


async def test_a_frozen_sidecar_is_thawed_by_its_guard(mesh: LiveMesh) -> None:
    await quiet(mesh)
    victim = await mesh.standby()
    pid = mesh.pid(mesh.sidecar_of(victim))
    async with operator(mesh.now.consul.http) as client:
        fault = Fault.SIDECAR_FROZEN
        async with live.drill(client, "sidecar-frozen", fault, victim, seconds=4.0):
            await until(lambda: state(pid) == "T", "the sidecar is frozen")
        assert state(pid) != "T"
        assert (await drills(client))[-1].outcome == "done"
    await mesh.steady()
    assert not mesh.restarted(mesh.sidecar_of(victim), pid)


async def test_a_refused_drill_changes_nothing(mesh: LiveMesh) -> None:
    await quiet(mesh)
    victim, pids = await mesh.primary(), [mesh.pid(each.id) for each in mesh.now.instances]
    async with operator(mesh.now.consul.http) as client:
        before = await drills(client)
        with pytest.raises(DrillRefused) as refused:
            async with live.drill(client, "crash", Fault.CRASH, victim, seconds=5.0):
                raise AssertionError("it has begun")
        assert refused.value.code == Code.NOT_PERMITTED
        assert await drills(client) == before
    await mesh.steady()
    assert await mesh.primary() == victim
    assert [mesh.pid(each.id) for each in mesh.now.instances] == pids
