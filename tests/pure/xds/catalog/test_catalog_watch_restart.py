"""A catalog watch that is restarted with its cached state."""

from dataclasses import replace

import pytest

from sidecar.election.keys import lock
from sidecar.runtime.errors import Unavailable
from sidecar.traffic.policy import Mode
from sidecar.xds.catalog.cached_state import CachedState
from sidecar.xds.catalog.health_query import HealthReply
from sidecar.xds.catalog.instance_watch import RetainedInstance
from tests.support.xds.catalog_scene import (
    FOLLOWED,
    FOLLOWED_STRICTLY,
    MINUTE,
    OWN,
    FaultyConsul,
    Scene,
    in_force,
    running,
)
from tests.support.xds.catalog_scene import generation as generation
from tests.support.xds.catalog_scene import scene as scene


async def stopped_plane() -> tuple[FaultyConsul, CachedState]:
    """A Consul, and the state that a stopped control plane has cached."""
    scene = Scene("triton")
    for name in ("xds", "a", "b"):
        scene.consul.up(name, OWN if name == "xds" else "triton")
    scene.consul.lead("a")
    scene.consul.order('{"mode": "strict"}')
    async with running(scene):
        state = scene.watch.state.value
    assert state is not None
    return scene.consul, state


async def test_without_consul_the_cached_catalog_is_published() -> None:
    consul, state = await stopped_plane()
    consul.fault = Unavailable("Consul: connection refused")
    scene = Scene("triton", consul=consul, kept=state)
    async with running(scene):
        await scene.clock.advance(60 * MINUTE)
        [catalog] = scene.published
        [service] = catalog.services
        assert service.settled
        assert service.leader is not None
        assert (service.leader.instance, service.policy.mode) == ("a", Mode.STRICT)
        assert scene.ids == ["a", "b"]
        assert scene.recorded.stale == {"triton"}
        consul.fault = None
        await scene.clock.advance(20.0)
        assert len(scene.published) == 1
        assert scene.recorded.stale == set()


@pytest.mark.parametrize("documents", [(), ("{}", FOLLOWED)])
async def test_a_restart_continues_the_sequences_of_a_policy_that_has_not_changed(
    documents: tuple[str, ...],
) -> None:
    scene = Scene("triton")
    scene.consul.up("a")
    async with running(scene):
        expected = await in_force(scene, FOLLOWED)
        await in_force(scene, FOLLOWED_STRICTLY)
        before, state = scene.service.since, scene.watch.state.value
    assert before.followed == expected
    for document in documents:
        scene.consul.order(document)
        expected = scene.consul.model.index
    later = Scene("triton", consul=scene.consul, kept=state)
    async with running(later):
        assert later.published[0].services[0].since == before
        await later.clock.advance(20.0)
        assert later.service.since.followed == expected


async def test_a_restart_with_an_emptied_catalog_is_protected() -> None:
    consul, state = await stopped_plane()
    consul.model.services.clear()
    scene = Scene("triton", consul=consul, kept=state)
    scene.replies |= {"a": HealthReply.SERVES}
    async with running(scene):
        await scene.clock.advance(10 * MINUTE)
        assert scene.ids == ["a", "b"]
        scene.consul.up("xds", OWN)
        await scene.clock.advance(10.0)
        assert scene.ids == ["a"]  # b has not reported for long


async def test_an_instance_missing_before_the_restart_is_queried_before_it_is_dropped() -> None:
    consul, state = await stopped_plane()
    consul.model.deregister("b", 0.0)
    missing = {"b": 1_700_000_000 - 100}
    kept = replace(state, kept={"triton": replace(state.kept["triton"], missing=missing)})
    scene = Scene("triton", consul=consul, kept=kept)
    scene.replies["b"] = HealthReply.SERVES
    async with running(scene):
        await scene.clock.advance(10 * MINUTE)
        assert scene.ids == ["a", "b"]
        assert scene.recorded.kept["triton"] == (RetainedInstance("b", serves=True),)
    scene = Scene("triton", consul=consul, kept=kept)
    async with running(scene):  # it does not answer
        await scene.clock.advance(0.9 * MINUTE)
        assert scene.ids == ["a", "b"]
        await scene.clock.advance(0.2 * MINUTE)
        assert scene.ids == ["a"]


async def test_changes_during_a_restart_are_published_as_one() -> None:
    consul, state = await stopped_plane()
    consul.lead("b")
    await consul.maintain_service("a", "stopping in order")
    consul.forbidden_key = lock.prefix("triton")
    scene = Scene("triton", consul=consul, kept=state)
    async with running(scene):
        consul.forbidden_key = ""
        await scene.clock.advance(20.0)
        before, after = (catalog.services[0] for catalog in scene.published)
        assert [each.usable for each in before.instances] == [True, True]
        assert [each.usable for each in after.instances] == [False, True]
        assert after.leader is not None
        assert after.leader.instance == "b"


async def test_a_silent_watch_does_not_delay_the_others_for_long() -> None:
    consul, state = await stopped_plane()
    await consul.maintain_service("a", "stopping in order")
    consul.forbidden_key = lock.prefix("triton")
    scene = Scene("triton", consul=consul, kept=state)
    async with running(scene):
        await scene.clock.advance(3.0)
        assert [each.usable for each in scene.service.instances] == [False, True]
        assert scene.recorded.stale == {"triton"}


async def test_an_older_epoch_is_not_accepted_after_a_restart_either() -> None:
    consul, state = await stopped_plane()
    consul.lead("b", epoch=1)
    consul.consistent_fault = Unavailable("Consul: no quorum")
    scene = Scene("triton", consul=consul, kept=state)
    async with running(scene):
        await scene.clock.advance(MINUTE)
        assert scene.service.leader is not None
        assert scene.service.leader.instance == "a"


async def test_an_unsettled_service_is_cached_unchanged() -> None:
    consul, state = await stopped_plane()
    consul.omits_all = True
    scene = Scene("triton", consul=consul, kept=state)
    async with running(scene):
        await scene.clock.advance(10 * MINUTE)
        kept = scene.watch.state.value
        assert kept is not None
        assert kept.kept["triton"].instances == state.kept["triton"].instances
