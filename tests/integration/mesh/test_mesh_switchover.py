"""The operator's verbs on a real mesh: what they do, what they cost, and what they refuse."""

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

MESH = ("--acl",)  # the operator's token may order, and nothing else


FORCED = ("failover", "--force", "--yes")


async def verb(mesh: LiveMesh, *arguments: str, status: int = 0) -> dict[str, Any]:
    """What a verb answers to programs."""
    done = await asyncio.to_thread(sidecar, *arguments, "--json", f"--mesh={mesh.folder}")
    assert done.returncode == status, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def keys(mesh: LiveMesh) -> dict[str, int]:
    """The keys of the election with their ModifyIndex."""
    async with consul_view.connect(mesh.now) as consul:
        entries = (await consul.kv_prefix(lock.prefix(SERVICE))).value
    return {entry.key: entry.modify_index for entry in entries}


async def test_a_switchover_costs_nothing(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        old, epoch, began = scene.primary, scene.timeline.epoch, time.monotonic()
        heir = await mesh.standby()
        async with generation(mesh.now.envoy.grpc, tokens=40, delay_ms=200) as long:
            await until(lambda: long.text, "the beginning of a generation of 8 s")
            moved = await verb(mesh, "switchover", "--reason=new kernel")
            assert moved["primary"] == heir
            assert moved["epoch"] > epoch
            assert moved["cost"]["failures"] == 0
            assert moved["cost"]["requests"] > 0
            steps = [step["what"] for step in moved["steps"]]
            assert steps == [
                "ordered",
                f"{heir} has proved itself",
                f"{old} has released the role",
                f"{heir} is primary, epoch {moved['epoch']}",
                "all Envoys have acknowledged it: 1 of 1",
            ]
            # What was in flight ends where it was.
            await until(lambda: long.done or long.error, "the end of a generation")
            assert long.error == ""
        await scene.succeeded(old, epoch)
        await scene.flows()
        assert scene.primaries(began) == [heir]
    unharmed(scene.load)


async def test_history_explains_it_and_counts_what_failed(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        old = scene.primary
        await verb(mesh, "switchover", "--reason=counted")

        newest: dict[str, Any] = {}

        async def counted() -> bool:
            newest.update((await verb(mesh, "history", "-n", "1"))["history"][0])
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


@soak  # as in contract/test_operator_verbs.py
async def test_what_is_refused_changes_nothing(mesh: LiveMesh) -> None:
    await mesh.steady()
    before, primary, standby = await keys(mesh), await mesh.primary(), await mesh.standby()
    told = await verb(mesh, "switchover", "--to", primary, status=1)
    assert told["why"] == f"{primary} is primary already"
    told = await verb(mesh, "switchover", "--to=triton-9", status=1)
    assert told["why"].startswith("triton-9: no such instance")
    told = await verb(mesh, "failover", status=1)
    assert f"{primary} is primary and serves" in told["why"]
    told = await verb(mesh, "failover", "--dry-run", status=1)
    assert told["winner"] == standby
    assert await keys(mesh) == before
    await mesh.maintain(standby, True)
    await mesh.avoided(standby)
    told = await verb(mesh, "switchover", status=1)
    assert f"{standby}: it is in maintenance" in told["why"]
    told = await verb(mesh, *FORCED, "--to", standby, status=1)
    assert "does not serve, and --force cannot change that" in told["why"]
    await mesh.maintain(standby, False)
    await mesh.steady()
    assert await mesh.primary() == primary


async def test_one_for_later(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        old, heir = scene.primary, await mesh.standby()
        ordered = await verb(mesh, "switchover", "--in=1h")
        assert ordered["order"]["to"] is None
        told = await verb(mesh, "switchover", status=1)
        assert "another order is pending" in told["why"]
        cancelled = await verb(mesh, "flush", "switchover")
        assert cancelled["cancelled"].startswith("switchover by ")
        assert (await verb(mesh, "flush", "switchover"))["cancelled"] is None
        assert scene.primary == old
        moved = await verb(mesh, "switchover", "--in=3s", "--wait")
        assert moved["primary"] == heir
        assert f"{heir} is the candidate" in [step["what"] for step in moved["steps"]]
    unharmed(scene.load)


async def test_a_paused_mesh_elects_nobody_and_answers(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch, began = scene.primary, scene.timeline.epoch, time.monotonic()
        paused = await verb(mesh, "pause", "--for=1h", "--reason=fabric")
        assert paused["replaced"] is None
        mesh.signal(victim, signal.SIGKILL)
        await until(lambda: scene.timeline.primary is None, "a mesh without a primary")
        await scene.becomes(victim, "passing")
        await scene.flows()
        # Nobody else has taken the role. The last holder may, if it was not given up in order.
        assert set(scene.primaries(began)) <= {victim}
        listed = await verb(mesh, "list")
        assert listed["paused"]["reason"] == "fabric"
        assert (await verb(mesh, "resume"))["ended"]["reason"] == "fabric"
        await until(
            lambda: scene.timeline.primary and scene.timeline.epoch > epoch, "a primary again"
        )
        await mesh.steady()
    unharmed(scene.load, streams=False)


@soak  # as in contract/test_operator_verbs.py
async def test_failover_while_paused(mesh: LiveMesh) -> None:
    """The order of a person is carried out."""
    async with mesh.under_load() as scene:
        victim, heir = scene.primary, await mesh.standby()
        await verb(mesh, "pause")
        try:
            # Or it would be back, and take its own role again, before the order is given.
            with mesh.unsupervised():
                mesh.signal(victim, signal.SIGKILL)
                await until(lambda: scene.timeline.primary is None, "a mesh without a primary")
                moved = await verb(mesh, "failover", "--to", heir)
            assert moved["primary"] == heir
            assert any("automation stays paused" in line for line in moved["lost"])
        finally:
            await verb(mesh, "resume")
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load, streams=False)


async def test_force_against_a_frozen_sidecar(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch, heir = scene.primary, scene.timeline.epoch, await mesh.standby()
        # Or the election would be faster: Consul's own poll of the sidecar ends its session soon.
        await verb(mesh, "pause")
        with mesh.frozen(mesh.sidecar_of(victim)):
            moved = await verb(mesh, *FORCED, "--to", heir, "--reason=frozen")
            assert moved["primary"] == heir
            assert f"{heir} need not prove itself first" in moved["lost"]
            assert await scene.succeeded(victim, epoch) == heir
            await scene.flows()
        await verb(mesh, "resume")
        await mesh.steady()
        await scene.flows()
        assert scene.primary == heir  # the old one wakes up as a standby
        entries = (await verb(mesh, "history"))["history"]
        assert entries[-1]["cause"].endswith(": frozen")
    unharmed(scene.load)


async def test_history_is_a_chain(mesh: LiveMesh) -> None:
    entries = (await verb(mesh, "history", "-n", "500"))["history"]
    assert entries[0]["from"] is None
    for before, after in itertools.pairwise(entries):
        assert after["from"] == before["to"]
        assert after["epoch"] > before["epoch"]
        assert after["cause"]
    assert entries[-1]["to"] == await mesh.primary()
