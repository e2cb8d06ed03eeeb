"""The operator's commands on a real mesh: effects, failed requests, and rejected orders."""

import asyncio
import itertools
import json
import signal
import time
from typing import Any

import pytest

from sidecar.election.keys import lock
from sidecar.local import consul_view
from sidecar.local.planning.plan import SERVICE
from tests.support.mesh.mesh import LiveMesh, unharmed
from tests.support.mesh.mesh_clients import generation
from tests.support.mesh.mesh_outside import sidecar, until
from tests.support.soak import soak

pytestmark = pytest.mark.integration

MESH = ("--acl",)  # the operator's token may write orders, and nothing else


FORCED = ("failover", "--force", "--yes")


async def command(mesh: LiveMesh, *arguments: str, status: int = 0) -> dict[str, Any]:
    """The JSON output of a command."""
    done = await asyncio.to_thread(sidecar, *arguments, "--json", f"--mesh={mesh.folder}")
    assert done.returncode == status, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def keys(mesh: LiveMesh) -> dict[str, int]:
    """The ModifyIndex of each key of the election."""
    async with consul_view.connect(mesh.now) as consul:
        entries = (await consul.kv_prefix(lock.prefix(SERVICE))).value
    return {entry.key: entry.modify_index for entry in entries}


async def test_a_switchover_fails_no_request(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        old, epoch, began = scene.primary, scene.timeline.epoch, time.monotonic()
        successor = await mesh.standby()
        async with generation(mesh.now.envoy.grpc, tokens=40, delay_ms=200) as running:
            await until(lambda: running.text, "the beginning of a generation of 8 s")
            moved = await command(mesh, "switchover", "--reason=new kernel")
            assert moved["primary"] == successor
            assert moved["epoch"] > epoch
            assert moved["cost"]["failures"] == 0
            assert moved["cost"]["requests"] > 0
            steps = [step["what"] for step in moved["steps"]]
            subjects = [step.partition(" ")[0] for step in steps]
            assert subjects == ["ordered", successor, old, successor, "all"]
            assert steps[-1].endswith(": 1 of 1")
            # The stream in flight ends on the former primary.
            await until(lambda: running.done or running.error, "the end of a generation")
            assert running.error == ""
        await scene.succeeded(old, epoch)
        await scene.flows()
        assert scene.primaries(began) == [successor]
    unharmed(scene.load)


async def test_history_has_the_cause_and_the_failed_requests(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        old = scene.primary
        await command(mesh, "switchover", "--reason=counted")

        newest: dict[str, Any] = {}

        async def counted() -> bool:
            newest.update((await command(mesh, "history", "-n", "1"))["history"][0])
            return newest["failed"] is not None

        await until(counted, "what failed during the switchover")
        assert newest["from"] == old
        assert newest["to"] == scene.primary
        assert newest["epoch"] == scene.timeline.epoch
        assert newest["cause"].startswith("switchover by ")
        assert newest["cause"].endswith(": counted")
        assert newest["failed"] == 0
        assert newest["requests"] > 0
    unharmed(scene.load)


@soak  # as in tests/contract/operator/test_follow_order.py
async def test_a_rejected_order_changes_nothing(mesh: LiveMesh) -> None:
    await mesh.steady()
    before, primary, standby = await keys(mesh), await mesh.primary(), await mesh.standby()
    answer = await command(mesh, "switchover", "--to", primary, status=1)
    assert answer["why"] == f"{primary} is primary already"
    answer = await command(mesh, "switchover", "--to=triton-9", status=1)
    assert answer["why"].startswith("triton-9: ")
    answer = await command(mesh, "failover", status=1)
    assert answer["why"].startswith(f"{primary} is primary")
    answer = await command(mesh, "failover", "--dry-run", status=1)
    assert answer["winner"] == standby
    assert await keys(mesh) == before
    await mesh.maintain(standby, True)
    await mesh.avoided(standby)
    answer = await command(mesh, "switchover", status=1)
    assert f"{standby}: " in answer["why"]
    assert "maintenance" in answer["why"]
    answer = await command(mesh, *FORCED, "--to", standby, status=1)
    assert answer["why"].startswith(f"{standby} does not serve")
    await mesh.maintain(standby, False)
    await mesh.steady()
    assert await mesh.primary() == primary


async def test_a_scheduled_switchover_waits_and_can_be_cancelled(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        old, successor = scene.primary, await mesh.standby()
        ordered = await command(mesh, "switchover", "--in=1h")
        assert ordered["order"]["to"] is None
        answer = await command(mesh, "switchover", status=1)
        assert "`flush switchover`" in answer["why"]
        cancelled = await command(mesh, "flush", "switchover")
        assert cancelled["cancelled"].startswith("switchover by ")
        assert (await command(mesh, "flush", "switchover"))["cancelled"] is None
        assert scene.primary == old
        moved = await command(mesh, "switchover", "--in=3s", "--wait")
        assert moved["primary"] == successor
        subjects = [step["what"].partition(" ")[0] for step in moved["steps"]]
        assert subjects.count(successor) == 3  # named, proven, primary
    unharmed(scene.load)


async def test_a_paused_mesh_elects_no_other_instance_and_serves(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch, began = scene.primary, scene.timeline.epoch, time.monotonic()
        paused = await command(mesh, "pause", "--for=1h", "--reason=fabric")
        assert paused["replaced"] is None
        mesh.signal(victim, signal.SIGKILL)
        await until(lambda: scene.timeline.primary is None, "a mesh without a primary")
        await scene.becomes(victim, "passing")
        await scene.flows()
        # No other instance has taken the role. Its last holder may, if it did not release it.
        assert set(scene.primaries(began)) <= {victim}
        listed = await command(mesh, "list")
        assert listed["paused"]["reason"] == "fabric"
        assert (await command(mesh, "resume"))["ended"]["reason"] == "fabric"
        await until(
            lambda: scene.timeline.primary and scene.timeline.epoch > epoch, "a primary again"
        )
        await mesh.steady()
    unharmed(scene.load, streams=False)


@soak  # as in tests/contract/operator/test_follow_order.py
async def test_a_failover_while_paused_is_executed(mesh: LiveMesh) -> None:
    """An operator's order is executed even so."""
    async with mesh.under_load() as scene:
        victim, successor = scene.primary, await mesh.standby()
        await command(mesh, "pause")
        try:
            # With supervision it might restart and take its role again before the order.
            with mesh.unsupervised():
                mesh.signal(victim, signal.SIGKILL)
                await until(lambda: scene.timeline.primary is None, "a mesh without a primary")
                moved = await command(mesh, "failover", "--to", successor)
            assert moved["primary"] == successor
            assert any("paused" in line for line in moved["lost"])
        finally:
            await command(mesh, "resume")
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load, streams=False)


async def test_a_forced_failover_replaces_a_frozen_sidecar(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch, successor = scene.primary, scene.timeline.epoch, await mesh.standby()
        # Without the pause the election might be first: Consul's check soon ends the session.
        await command(mesh, "pause")
        with mesh.frozen(mesh.sidecar_of(victim)):
            moved = await command(mesh, *FORCED, "--to", successor, "--reason=frozen")
            assert moved["primary"] == successor
            assert any(line.startswith(f"{successor} ") for line in moved["lost"])
            assert await scene.succeeded(victim, epoch) == successor
            await scene.flows()
        await command(mesh, "resume")
        await mesh.steady()
        await scene.flows()
        assert scene.primary == successor  # the former primary resumes as a standby
        entries = (await command(mesh, "history"))["history"]
        assert entries[-1]["cause"].endswith(": frozen")
    unharmed(scene.load)


async def test_the_entries_of_history_form_a_chain(mesh: LiveMesh) -> None:
    entries = (await command(mesh, "history", "-n", "500"))["history"]
    assert entries[0]["from"] is None
    for before, after in itertools.pairwise(entries):
        assert after["from"] == before["to"]
        assert after["epoch"] > before["epoch"]
        assert after["cause"]
    assert entries[-1]["to"] == await mesh.primary()
