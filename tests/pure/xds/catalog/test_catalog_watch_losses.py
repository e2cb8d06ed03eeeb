"""A catalog watch whose instances disappear: proof, self-reports, and how long they are kept."""

from sidecar.runtime.errors import Unavailable
from sidecar.xds.catalog.health_query import HealthReply
from sidecar.xds.catalog.instance_watch import RetainedInstance
from tests.support.xds.catalog_scene import MINUTE, OWN, Scene, running
from tests.support.xds.catalog_scene import generation as generation
from tests.support.xds.catalog_scene import scene as scene


async def test_a_service_that_is_proven_to_be_gone_is_emptied_after_the_hold(scene: Scene) -> None:
    for name in "ab":
        scene.consul.model.deregister(name, 0.0)
    await scene.change()
    await scene.clock.advance(0.9 * MINUTE)
    assert scene.ids == ["a", "b"]
    await scene.clock.advance(0.2 * MINUTE)
    assert scene.ids == []
    assert scene.service.settled


async def test_the_last_healthy_instance_is_dropped_only_when_its_absence_is_proven(
    scene: Scene,
) -> None:
    scene.consul.model.deregister("a", 0.0)
    scene.consul.model.set_check("b:verdict", "critical", "wrong answer", 0.0)
    scene.consul.consistent_fault = Unavailable("Consul: no quorum")
    await scene.change()
    await scene.clock.advance(10 * MINUTE)
    assert scene.ids == ["a", "b"]
    scene.consul.consistent_fault = None
    await scene.clock.advance(MINUTE)
    assert scene.ids == ["b"]


async def test_a_failing_verification_is_reported_separately_from_the_watch(scene: Scene) -> None:
    scene.consul.consistent_fault = Unavailable("Consul: no quorum")
    for name in "ab":
        scene.consul.model.deregister(name, 0.0)
    await scene.change()
    await scene.clock.advance(MINUTE)
    assert scene.recorded.failing == {"verification"}
    scene.consul.consistent_fault = None
    await scene.clock.advance(6.0)
    assert scene.recorded.failing == set()


async def test_a_slow_verification_delays_no_other_service() -> None:
    scene = Scene("gone", "triton")
    scene.consul.up("xds", OWN)
    scene.consul.up("a")
    scene.consul.hangs_on = OWN
    async with running(scene):
        await scene.clock.advance(2 * MINUTE)
        scene.consul.up("b")
        await scene.change()
        gone, triton = scene.published[-1].services
        assert [instance.id for instance in triton.instances] == ["a", "b"]
        assert not gone.settled


async def test_a_deleted_entry_is_held_for_a_while(scene: Scene) -> None:
    scene.consul.model.deregister("b", 0.0)
    await scene.change()
    await scene.clock.advance(0.9 * MINUTE)
    assert scene.ids == ["a", "b"]
    assert [each.silent for each in scene.service.instances] == [False, True]
    await scene.clock.advance(0.2 * MINUTE)
    assert scene.ids == ["a"]


async def test_a_missing_instance_that_reports_it_serves_is_kept_with_an_alert(
    scene: Scene,
) -> None:
    scene.replies["b"] = HealthReply.SERVES
    scene.consul.model.deregister("b", 0.0)
    await scene.change()
    assert scene.recorded.kept == {"triton": (RetainedInstance("b", serves=True),)}
    await scene.clock.advance(50 * MINUTE)
    assert len(scene.published) == 1
    await scene.clock.advance(11 * MINUTE)
    assert scene.ids == ["a"]  # nothing is kept forever
    assert scene.recorded.kept == {"triton": ()}
    assert [name for name, _ in scene.recorded.given_up] == ["b"]


async def test_a_missing_instance_that_reports_it_is_gone_is_dropped_at_once(scene: Scene) -> None:
    scene.replies["b"] = HealthReply.GONE
    scene.consul.model.deregister("b", 0.0)
    await scene.change()
    assert scene.ids == ["a"]


async def test_an_instance_that_returns_is_not_queried_any_more(scene: Scene) -> None:
    scene.replies["b"] = HealthReply.SERVES
    scene.consul.model.deregister("b", 0.0)
    await scene.change()
    scene.consul.up("b")
    await scene.change()
    assert scene.recorded.kept == {"triton": ()}
    assert len(scene.published) == 1


async def test_all_entries_deleted_while_the_tritons_run(scene: Scene) -> None:
    scene.replies |= {"a": HealthReply.SERVES, "b": HealthReply.GONE}
    for name in "ab":
        scene.consul.model.deregister(name, 0.0)
    await scene.change()
    assert scene.ids == ["a", "b"]  # until a trusted read shows the same
    await scene.clock.advance(6.0)
    assert scene.ids == ["a"]
    await scene.clock.advance(30 * MINUTE)
    assert scene.ids == ["a"]


async def test_instances_hidden_by_a_token_are_found_again_without_a_change(scene: Scene) -> None:
    scene.consul.omits_all = True
    await scene.change()
    scene.consul.omits_all = False
    await scene.clock.advance(6.0)
    assert scene.recorded.kept == {"triton": ()}
    assert len(scene.published) == 1


async def test_a_sudden_loss_is_verified_before_it_counts(scene: Scene) -> None:
    for name in "cdef":
        scene.consul.up(name)
    await scene.change()
    scene.consul.consistent_fault = Unavailable("Consul: no quorum")
    for name in "cdef":
        scene.consul.model.deregister(name, 0.0)
    await scene.change()
    await scene.clock.advance(10 * MINUTE)
    assert scene.ids == list("abcdef")
    scene.consul.consistent_fault = None
    await scene.clock.advance(6.0)
    assert scene.ids == ["a", "b"]


async def test_an_instance_that_drained_before_is_dropped_at_once(scene: Scene) -> None:
    for name in "ab":
        await scene.consul.maintain_service(name, "stopping in order")
    await scene.change()
    for name in "ab":
        scene.consul.model.deregister(name, 0.0)
    await scene.change()
    assert scene.ids == []
