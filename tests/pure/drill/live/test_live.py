"""Live drills from both sides, on a modelled Consul and a clock that is turned by hand."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from sidecar.consul.api import HoldsLock, Set
from sidecar.drill.live import drill_lock, live
from sidecar.drill.live.precheck import DrillRefused
from sidecar.drill.live.running import DrillAborted
from sidecar.election.keys import lock, orders
from sidecar.election.keys.history import DrillEntry
from sidecar.election.keys.orders import Kind, Pause
from sidecar.injection import keys
from sidecar.injection.keys import Answer, Order
from sidecar.injection.rules import Code, Fault
from sidecar.operator import operator_client
from sidecar.runtime.errors import Conflict, Refused, Rejected, SidecarError, Unavailable
from tests.support.consul_model import Servers
from tests.support.drill_scene import SERVICE, ModelledScene, drill_scene, passing

ONLY_CRASH = frozenset({Fault.CRASH})


async def once(
    scene: ModelledScene, fault: Fault = Fault.FREEZE, victim: str = "a", lasts: float = 5.0
) -> None:
    async with live.drill(scene.operator(), "night", fault, victim, seconds=30.0):
        await scene.clock.sleep(lasts)


def begin(scene: ModelledScene, fault: Fault = Fault.FREEZE, **more: float) -> asyncio.Task[None]:
    return asyncio.create_task(once(scene, fault, **more))  # type: ignore[arg-type]


async def past(scene: ModelledScene) -> list[DrillEntry]:
    return list((await operator_client.read_history(scene.operator(), 20)).drills)


async def test_a_fault_is_on_for_as_long_as_the_drill_wants() -> None:
    async with drill_scene() as scene:
        victim, work = scene.members["a"], begin(scene)
        await scene.clock.advance(1.0)
        assert (victim.on, victim.armed) == (1, [30.0])
        assert scene.members["b"].on == 0
        seen = await operator_client.read_status(scene.operator())
        assert seen.drill
        assert (seen.drill.victim, seen.drill.by) == ("a", "jane@desk")
        [entry] = await past(scene)
        assert (entry.scenario, entry.fault, entry.victim, entry.ended) == (
            *("night", "freeze", "a"),
            "",
        )
        await passing(scene, work)
        assert victim.on == 0
        assert victim.phases == [("began", ""), ("ended", "ended")]
        [entry] = await past(scene)
        assert (entry.outcome, entry.code) == ("done", "ended")
        assert (await operator_client.read_status(scene.operator())).drill is None
        found = await scene.keys()
        assert found.last
        assert victim.last == scene.members["b"].last == found.last.ended > 0
        # And once more, with the same victim.
        with suppress(DrillRefused):
            async with live.drill(
                scene.operator(drill="d2"), "night", Fault.CRASH, "a", seconds=5.0
            ):
                assert victim.on == 1
        assert victim.on == 0


async def test_a_second_drill_is_told_who_holds_the_first() -> None:
    async with drill_scene() as scene:
        work = begin(scene)
        await scene.clock.advance(1.0)
        with pytest.raises(DrillRefused, match="night on a, by jane@desk, since 20") as refused:
            async with live.drill(
                scene.operator("joe@desk", "d2"), "night", Fault.CRASH, "b", seconds=5.0
            ):
                raise AssertionError("it has begun")
        assert refused.value.code == Code.HELD
        assert scene.members["b"].armed == []
        await passing(scene, work)


async def b_fails(scene: ModelledScene) -> None:
    await scene.set("b", "critical")


async def b_warns(scene: ModelledScene) -> None:
    await scene.set("b", "warning")


async def a_fails(scene: ModelledScene) -> None:
    await scene.set("a", "critical")


async def b_is_gone(scene: ModelledScene) -> None:
    await scene.consul.deregister_service("b")


async def a_is_gone(scene: ModelledScene) -> None:
    await scene.consul.deregister_service("a")


async def is_paused(scene: ModelledScene) -> None:
    pause = Pause(scene.clock.wall(), "joe")
    await scene.consul.transact(Set(orders.pause_key(SERVICE), lock.dumps(pause)))


async def is_ordered(scene: ModelledScene) -> None:
    order = orders.Order("o", Kind.SWITCHOVER, scene.clock.wall() + 60, "joe", "b")
    await scene.consul.transact(Set(orders.order_key(SERVICE), lock.dumps(order)))


async def a_says_so(scene: ModelledScene) -> None:
    scene.members["a"].passing = False


async def a_is_paused(scene: ModelledScene) -> None:
    scene.members["a"].paused = "kernel"


async def a_may_not(scene: ModelledScene) -> None:
    scene.members["a"].fails = True


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (b_fails, Code.OTHERS_UNWELL),
        (b_warns, Code.OTHERS_UNWELL),
        (a_fails, Code.UNWELL),
        (b_is_gone, Code.ALONE),
        (a_is_gone, Code.NO_INSTANCE),
        (is_paused, Code.PAUSED),
        (is_ordered, Code.ORDER_PENDING),
        (a_says_so, Code.UNWELL),
        (a_is_paused, Code.PAUSED),
        (a_may_not, Code.NOT_INJECTED),
    ],
)
async def test_a_refused_drill_changes_nothing(
    change: Callable[[ModelledScene], asyncio.Future[None]], code: Code
) -> None:
    async with drill_scene() as scene:
        await change(scene)
        with pytest.raises(DrillRefused) as refused:
            await passing(scene, begin(scene))
        assert refused.value.code == code
        assert [member.on for member in scene.members.values()] == [0, 0]
        found = await scene.keys()
        assert (found.running, found.last) == (None, None)


async def test_a_fault_that_is_not_permitted_is_refused() -> None:
    async with drill_scene(a=ONLY_CRASH, b=frozenset()) as scene:
        with pytest.raises(DrillRefused, match="permits crash, not freeze") as refused:
            await passing(scene, begin(scene))
        assert refused.value.code == Code.NOT_PERMITTED
        # As with a sidecar of an earlier version, which says nothing of drills.
        with pytest.raises(DrillRefused, match="its version knows none") as refused:
            await passing(scene, asyncio.create_task(once(scene, Fault.CRASH, "b")))
        assert refused.value.code == Code.NOT_PERMITTED
        assert await past(scene) == []


async def test_a_sidecar_that_does_not_answer_ends_the_drill() -> None:
    async with drill_scene() as scene:
        await scene.members["a"].die()
        with pytest.raises(DrillRefused) as refused:
            await passing(scene, begin(scene))
        assert refused.value.code == Code.UNANSWERED
        [entry] = await past(scene)
        assert (entry.outcome, entry.code) == ("refused", "unanswered")
        assert (await scene.keys()).running is None


async def test_the_fault_ends_when_the_drill_was_killed() -> None:
    """Its session ends by its TTL, without a word from the drill."""
    async with drill_scene() as scene:
        order = Order("d1", "jane@desk", scene.clock.wall(), "night", "a")
        held = await drill_lock.take(scene.operator(), order)
        await held.write(replace(order, fault="freeze", seconds=50.0))
        await scene.clock.advance(1.0)
        victim = scene.members["a"]
        assert victim.on == 1
        await scene.clock.advance(21.0)
        await scene.consul.change(scene.consul.model.pass_time)  # the model has no clock of its own
        await scene.clock.advance(1.0)
        assert victim.on == 0
        assert victim.phases == [("began", ""), ("aborted", "lock_lost")]
        assert [each.said for each in (await scene.keys()).answers] == ["restored"]


async def test_the_fault_ends_when_ctrl_c_cancels_the_drill() -> None:
    async with drill_scene() as scene:
        work = begin(scene)
        await scene.clock.advance(1.0)
        assert scene.members["a"].on == 1
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await passing(scene, work)
        assert scene.members["a"].on == 0
        [entry] = await past(scene)
        assert (entry.outcome, entry.code) == ("aborted", "ended")
        found = await scene.keys()
        assert (found.running, found.last) == (None, None)


async def test_the_fault_ends_when_its_time_is_over() -> None:
    async with drill_scene() as scene:
        work = begin(scene, lasts=40.0)
        await scene.clock.advance(32.0)
        assert scene.members["a"].on == 0
        await passing(scene, work)
        [entry] = await past(scene)
        assert (entry.outcome, entry.code) == ("done", "time_over")


@pytest.mark.parametrize("servers", [Servers.GONE, Servers.LEADERLESS])
async def test_the_fault_ends_when_consul_does_not_answer(servers: Servers) -> None:
    async with drill_scene() as scene:
        work = begin(scene, lasts=20.0)
        await scene.clock.advance(1.0)
        assert scene.members["a"].on == 1
        await scene.consul.set_servers(servers)
        await scene.clock.advance(10.0)
        assert scene.members["a"].on == 0
        await scene.consul.set_servers(Servers.LEADING)
        await passing(scene, work)
        assert scene.members["a"].phases == [("began", ""), ("aborted", "consul_lost")]
        assert [(each.outcome, each.code) for each in await past(scene)] == [
            ("aborted", "consul_lost")
        ]


async def test_an_answer_that_consul_does_not_take_delays_no_undo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with drill_scene() as scene:

        async def transact(*operations: Any) -> Any:
            if isinstance(operations[0], Set) and b"injected" in operations[0].value:
                await scene.clock.sleep(1000.0)
            return await written(*operations)

        written = scene.consul.transact
        monkeypatch.setattr(scene.consul, "transact", transact)
        work = begin(scene)
        await scene.clock.advance(1.0)
        assert scene.members["a"].on == 1
        await scene.consul.set_servers(Servers.GONE)
        await scene.clock.advance(10.0)
        assert scene.members["a"].on == 0
        await scene.consul.set_servers(Servers.LEADING)
        with pytest.raises(DrillRefused):
            await passing(scene, work)


async def test_a_sidecar_that_stops_undoes_its_fault_first() -> None:
    async with drill_scene() as scene:
        work = begin(scene)
        await scene.clock.advance(1.0)
        victim = scene.members["a"]
        await victim.injector.stop()
        assert victim.on == 0
        assert victim.phases[-1] == ("aborted", "stopping")
        await passing(scene, work)


@pytest.mark.parametrize("step", ["prepare", "claim", "announced", "arm"])
async def test_a_sidecar_that_stops_causes_no_fault_any_more(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with drill_scene() as scene:
        victim, stopped = scene.members["a"], list[asyncio.Task[None]]()

        async def before(reached: str) -> None:
            if reached == step and not stopped:
                stopped.append(asyncio.create_task(victim.injector.stop()))
                await scene.clock.sleep(0.5)

        async def transact(*operations: Any) -> Any:
            if isinstance(operations[0], HoldsLock) and b"injecting" in operations[1].value:
                await before("claim")
            return await written(*operations)

        written, victim.before = scene.consul.transact, before
        monkeypatch.setattr(scene.consul, "transact", transact)
        work = begin(scene, Fault.SIDECAR_FROZEN)
        await scene.clock.advance(3.0)
        [stopping] = stopped
        assert stopping.done()
        with suppress(DrillRefused):
            await passing(scene, work)
        assert victim.caused == 0
        [entry] = await past(scene)
        assert (entry.outcome, entry.code) in {("refused", "stopping"), ("aborted", "stopping")}


async def test_a_new_sidecar_undoes_what_the_last_one_left_and_does_not_repeat_it() -> None:
    async with drill_scene() as scene:
        work = begin(scene, lasts=20.0)
        await scene.clock.advance(1.0)
        victim = scene.members["a"]
        await victim.die()
        assert victim.on == 1
        victim.start()
        await scene.clock.advance(1.0)
        assert (victim.on, victim.thawed, victim.armed) == (0, 1, [30.0])
        await passing(scene, work)
        assert victim.armed == [30.0]
        assert [each.code for each in await past(scene)] == ["left"]


async def test_a_fault_of_the_sidecar_itself_is_answered_before_it_hits() -> None:
    async with drill_scene() as scene:
        work = begin(scene, Fault.SIDECAR_KILLED, lasts=3.0)
        await scene.clock.advance(1.0)
        victim = scene.members["a"]
        await victim.die()
        found = await scene.keys()
        assert [each.said for each in found.answers] == ["injected"]
        victim.start()
        await passing(scene, work)
        assert (victim.thawed, len(victim.armed)) == (0, 1)
        assert [(each.outcome, each.code) for each in await past(scene)] == [("done", "left")]


async def test_the_end_of_the_fault_is_told_while_the_drill_goes_on() -> None:
    async with drill_scene() as scene:
        codes = []

        async def work() -> None:
            async with live.drill(
                scene.operator(), "night", Fault.FREEZE, "a", seconds=30.0
            ) as running:
                _, over = await running.over.changed(0)
                codes.append(over and over.code)

        task = asyncio.create_task(work())
        await scene.clock.advance(1.0)
        await scene.members["a"].injector.stop()
        await passing(scene, task)
        assert codes == ["stopping"]


@pytest.mark.parametrize(
    ("error", "outcome", "code", "within"),
    [
        (Conflict("the lock is lost"), "refused", "lock_lost", 1.0),
        (Rejected("the token may not"), "refused", "not_injected", 1.0),
        (Refused("nothing listens"), "refused", "consul_lost", 1.0),
        (Unavailable("no answer in time"), "aborted", "unanswered", 60.0),
    ],
)
async def test_only_an_order_that_may_have_been_written_is_waited_for(
    error: SidecarError, outcome: str, code: str, within: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with drill_scene() as scene:

        async def transact(*operations: Any) -> Any:
            if isinstance(operations[0], HoldsLock):
                raise error
            return await written(*operations)

        written = scene.consul.transact
        monkeypatch.setattr(scene.consul, "transact", transact)
        with pytest.raises((DrillRefused, DrillAborted)) as raised:
            await passing(scene, begin(scene), within)
        assert getattr(raised.value, "code", "") == code
        assert isinstance(raised.value, DrillRefused) == (outcome == "refused")
        [entry] = await past(scene)
        assert (entry.outcome, entry.code) == (outcome, code)


async def test_an_end_that_nobody_confirms_is_an_error_with_its_code() -> None:
    async with drill_scene() as scene:
        work = begin(scene)
        await scene.clock.advance(1.0)
        await scene.members["a"].die()
        with pytest.raises(DrillAborted) as aborted:
            await passing(scene, work)
        assert aborted.value.code == Code.UNANSWERED


async def test_a_cancelled_drill_stays_cancelled_if_its_end_fails() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise Unavailable("Consul is gone")

    work = asyncio.create_task(drill_lock.uninterrupted(fails()))
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


async def test_what_could_not_be_undone_is_an_error() -> None:
    async with drill_scene() as scene:
        work = begin(scene)
        await scene.clock.advance(1.0)
        await scene.members["a"].die()
        broken = Answer("d1", "a", "restored", 1.0, "ended", "not undone: tc: no such file")
        key = keys.answer_key(SERVICE, "a")
        await scene.consul.transact(Set(key, lock.dumps(broken)))
        with pytest.raises(DrillAborted, match="not undone: tc") as aborted:
            await passing(scene, work)
        assert aborted.value.code == Code.NOT_UNDONE
        assert [each.outcome for each in await past(scene)] == ["aborted"]
