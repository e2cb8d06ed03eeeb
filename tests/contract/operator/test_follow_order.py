"""Orders and their outcome, with election loops on a real agent and on the model of Consul."""

import asyncio

import pytest

from sidecar.consul.api import Set
from sidecar.election.decision import Intent
from sidecar.election.keys import orders
from sidecar.operator import follow_order, operator_client, plans
from sidecar.runtime.errors import Conflict, DeadlineExceeded
from tests.support.operator_rig import CLOCK, Scene, sidecars
from tests.support.operator_rig import run as run
from tests.support.operator_rig import scene as scene

pytestmark = pytest.mark.contract
AGENT_IS_ENOUGH = True


async def test_a_switchover_moves_the_role_and_reports_each_step(scene: Scene) -> None:
    async with sidecars(scene, "a", "b") as (a, b):
        assert await scene.move(plans.switchover, scene.request(reason="new kernel")) == b.id
        assert await scene.primary() == b.id
        *steps, last = scene.steps
        assert [step.partition(" ")[0] for step in steps] == ["ordered", "b", "a", "b"]
        assert last == "no control plane follows the service, so there is no Envoy to wait for"
        *_, entry = (await operator_client.read_history(scene.client, 20)).entries
        assert (entry.by, entry.to, entry.cause) == (
            a.id,
            b.id,
            "switchover by jane@desk: new kernel",
        )
        assert len((await operator_client.read_history(scene.client, 1)).entries) == 1
        outcome = await scene.outcome()
        assert outcome.done
        assert (await operator_client.read_status(scene.client)).state.order is None


async def test_an_order_whose_candidate_is_not_fit_fails(scene: Scene) -> None:
    async with sidecars(scene, "a", "b") as (a, b):
        b.proof = "chat: CANARY_WRONG"
        with pytest.raises(Conflict, match="CANARY_WRONG"):
            await scene.move(plans.switchover, scene.request())
        assert await scene.primary() == a.id
        assert (await operator_client.read_status(scene.client)).state.order is None


async def test_an_order_that_times_out_is_cancelled(scene: Scene) -> None:
    async with sidecars(scene, "a", "b") as (a, b):
        b.proof = None
        with pytest.raises(DeadlineExceeded, match=r"; the order was cancelled$"):
            await scene.move(plans.switchover, scene.request(), timeout=2.0)
        assert await scene.primary() == a.id
        outcome = await scene.outcome()
        assert (outcome.done, outcome.why) == (False, "cancelled by jane@desk")
        b.proof = ""
        assert await scene.move(plans.switchover, scene.request()) == b.id


async def test_the_wait_reports_that_the_candidate_is_settling(scene: Scene) -> None:
    async with sidecars(scene, "a", "b", "c") as (a, b, c):
        until = CLOCK.wall() + 600
        await b.register(settled_at=until)
        b.proof = None
        with pytest.raises(DeadlineExceeded, match=f": {b.id} "):
            await scene.move(plans.switchover, scene.request(to=b.id), timeout=2.0)
        settling = scene.reported[1]
        assert settling.what.startswith(f"{b.id} ")
        assert settling.settling_seconds
        assert scene.steps.count("ordered") == len(scene.steps) - 1 == 1
        # Without a named candidate a settled one is chosen, and there is no wait.
        assert await scene.move(plans.switchover, scene.request()) == c.id
        # A failover does not wait for candidates to settle, and reports no settling.
        scene.reported.clear()
        c.want(Intent.YIELD)
        a.want(Intent.YIELD)
        await scene.until_primary(None)
        b.proof = ""
        assert await scene.move(plans.failover, scene.request(to=b.id)) == b.id
        assert not [step for step in scene.reported if step.settling_seconds]


async def test_a_scheduled_order_waits_and_can_be_cancelled(scene: Scene) -> None:
    async with sidecars(scene, "a", "b") as (a, _):
        seen = await operator_client.read_status(scene.client)
        planned = plans.switchover(seen, scene.request(at=CLOCK.wall() + 3600))
        order = await operator_client.write_order(scene.client, planned)
        with pytest.raises(Conflict, match="another order was just given"):
            await operator_client.write_order(scene.client, planned)
        waits = asyncio.create_task(
            follow_order.wait_until_moved(scene.client, order, seen, 60, scene.reported.append)
        )
        await asyncio.sleep(0)
        cancelled = await operator_client.cancel_pending(scene.client)
        assert cancelled
        assert cancelled.startswith("switchover by jane@desk, for 20")
        with pytest.raises(Conflict, match="the order failed: cancelled by jane@desk"):
            await waits
        assert await operator_client.cancel_pending(scene.client) is None
        assert await scene.primary() == a.id


async def test_a_scheduled_order_chooses_its_candidate_when_it_is_due(scene: Scene) -> None:
    async with sidecars(scene, "a", "b") as (_, b):
        at = CLOCK.wall() + 2.0
        assert await scene.move(plans.switchover, scene.request(at=at)) == b.id
        assert scene.reported[0].what.startswith("ordered for 20")
        subjects = [step.partition(" ")[0] for step in scene.steps]
        assert subjects == ["ordered", "b", "b", "a", "b", "no"]


async def test_a_paused_mesh_elects_a_primary_only_by_an_order(scene: Scene) -> None:
    async with sidecars(scene, "a", "b", "c") as (a, _, c):
        new, old = await operator_client.pause(scene.client, 3600, "fabric")
        assert (new.by, new.reason, old) == ("jane@desk", "fabric", None)
        _, old = await operator_client.pause(scene.client, None, "still")
        assert old == new
        a.want(Intent.YIELD)
        await scene.until_primary(None)
        await asyncio.sleep(1.0)
        assert await scene.primary() is None
        assert await scene.move(plans.failover, scene.request(to=c.id)) == c.id
        ended = await operator_client.resume(scene.client)
        assert ended
        assert ended.reason == "still"
        assert await operator_client.resume(scene.client) is None


async def test_a_failover_to_an_unfit_candidate_fails_without_a_wait(scene: Scene) -> None:
    async with sidecars(scene, "a", "b") as (a, b):
        await operator_client.pause(scene.client, None, "")
        a.want(Intent.YIELD)
        await scene.until_primary(None)
        b.proof = "chat: CANARY_WRONG"
        with pytest.raises(Conflict, match="CANARY_WRONG"):
            await scene.move(plans.failover, scene.request(to=b.id))
        assert (await operator_client.read_status(scene.client)).state.order is None
        assert "CANARY_WRONG" in (await scene.outcome()).why


async def test_force_ends_the_session_of_a_frozen_primary(scene: Scene) -> None:
    async with sidecars(scene, "a", "b", b="nofailover") as (a, b):
        await a.freeze()
        b.proof = None
        with pytest.raises(Conflict, match=f"^{a.id} is primary"):
            await scene.move(plans.failover, scene.request(to=b.id))
        assert await scene.move(plans.failover, scene.request(to=b.id, force=True)) == b.id
        assert "destroying the primary's session, as it does not release the role" in scene.steps


async def test_force_replaces_another_order(scene: Scene) -> None:
    async with sidecars(scene, "a", "b") as (_, b):
        seen = await operator_client.read_status(scene.client)
        later = plans.switchover(seen, scene.request(at=CLOCK.wall() + 3600))
        order = await operator_client.write_order(scene.client, later)
        waits = asyncio.create_task(
            follow_order.wait_until_moved(scene.client, order, seen, 60, lambda step: None)
        )
        await asyncio.sleep(0.1)
        assert await scene.move(plans.failover, scene.request(force=True)) == b.id
        with pytest.raises(Conflict, match=r"replaced by a failover|removed$"):
            await waits


async def test_an_unreadable_order_is_rejected_until_it_is_flushed(scene: Scene) -> None:
    async with sidecars(scene, "a", "b") as (_, b):
        await scene.consul.transact(Set(orders.order_key(scene.service), b"{"))
        with pytest.raises(Conflict, match=orders.order_key(scene.service)):
            await scene.move(plans.switchover, scene.request())
        assert (
            await operator_client.cancel_pending(scene.client) == "something that could not be read"
        )
        assert await scene.move(plans.switchover, scene.request()) == b.id
