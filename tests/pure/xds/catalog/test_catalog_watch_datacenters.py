"""A catalog watch across datacenters, and its own zone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from tests.support.consul_model import ConsulModel
from tests.support.xds.catalog_scene import MINUTE, OWN, FaultyConsul, Scene, running
from tests.support.xds.catalog_scene import generation as generation
from tests.support.xds.catalog_scene import scene as scene


@asynccontextmanager
async def federated() -> AsyncIterator[Scene]:
    """`a` here, `a` and `b` in dc2, which the policy names."""
    scene = Scene("triton")
    for name in ("xds", "a"):
        scene.consul.up(name, OWN if name == "xds" else "triton")
    there = scene.consul.datacenters["dc2"] = FaultyConsul(ConsulModel())
    for name in "ab":
        there.up(name)
    scene.consul.order('{"locality": {"datacenters": ["dc2"]}}')
    async with running(scene):
        yield scene


async def test_instances_of_other_datacenters_have_distinct_ids() -> None:
    async with federated() as scene:
        found = [(each.id, each.datacenter) for each in scene.service.instances]
        assert found == [("a", ""), ("dc2/a", "dc2"), ("dc2/b", "dc2")]


async def test_a_datacenter_that_cannot_be_reached_freezes_its_own_part_only() -> None:
    async with federated() as scene:
        there = scene.consul.datacenters.pop("dc2")
        await there.wake()
        scene.consul.up("c")
        await scene.change()
        await scene.clock.advance(10 * MINUTE)
        assert scene.ids == ["a", "c", "dc2/a", "dc2/b"]
        assert "Consul: no path to datacenter dc2" in scene.recorded.failures


async def test_the_control_planes_own_entry_proves_nothing_about_another_datacenter() -> None:
    async with federated() as scene:
        there = scene.consul.datacenters["dc2"]
        there.model.services.clear()
        await there.wake()
        await scene.clock.advance(10 * MINUTE)
        assert scene.ids == ["a", "dc2/a", "dc2/b"]
        there.up("consul", "consul")  # its servers are listed
        await there.wake()
        await scene.clock.advance(2 * MINUTE)
        assert scene.ids == ["a"]


async def test_a_datacenter_is_watched_as_long_as_the_policy_names_it() -> None:
    async with federated() as scene:
        scene.consul.order("{}")
        await scene.change()
        assert scene.ids == ["a"]
        assert scene.recorded.forgotten == ["triton@dc2"]
        scene.consul.order('{"locality": {"datacenters": ["dc2"]}}')
        await scene.change()
        assert scene.ids == ["a", "dc2/a", "dc2/b"]


async def test_its_zone_is_that_of_its_node_unless_it_is_set() -> None:
    for zone, expected in ((None, "west"), ("east", "east")):
        scene = Scene("triton", zone=zone)
        scene.consul.up("a")
        scene.consul.up(OWN, OWN)
        entry = scene.consul.model.services[OWN]
        scene.consul.model.services[OWN] = replace(entry, node_meta={"zone": "west"})
        async with running(scene):
            assert scene.published[-1].zone == expected


async def test_its_zone_is_found_soon_and_kept() -> None:
    scene = Scene("triton", zone=None)
    scene.consul.up("a")
    async with running(scene):
        assert scene.published[-1].zone == ""
        await scene.clock.advance(3.0)
        in_zone(scene, "west")
        await scene.clock.advance(0.6)
        assert scene.published[-1].zone == "west"
        state = scene.watch.state.value
    scene.consul.model.services.pop(OWN)
    later = Scene("triton", consul=scene.consul, kept=state, zone=None)
    async with running(later):
        assert {catalog.zone for catalog in later.published} == {"west"}
        in_zone(later, "east")  # it was moved in the meantime
        await later.clock.advance(5.0)
        assert later.published[-1].zone == "east"
    moved = Scene("triton", consul=scene.consul, kept=state, zone="north")
    async with running(moved):
        assert moved.published[-1].zone == "north"


def in_zone(scene: Scene, zone: str) -> None:
    """The control plane's own entry, on a node in a zone."""
    scene.consul.up(OWN, OWN)
    entry = scene.consul.model.services[OWN]
    scene.consul.model.services[OWN] = replace(entry, node_meta={"zone": zone})
