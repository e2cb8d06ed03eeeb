"""A catalog watch publishes whole changes of Consul's catalog, within a budget of queries."""

from dataclasses import replace

from sidecar.runtime.errors import Unavailable
from sidecar.xds.config.endpoints import assign
from tests.support.virtual_clock import settle
from tests.support.xds.catalog_scene import MINUTE, OWN, Scene, running
from tests.support.xds.catalog_scene import generation as generation
from tests.support.xds.catalog_scene import scene as scene


async def test_the_catalog_in_consul_is_published(scene: Scene) -> None:
    assert scene.ids == ["a", "b"]
    assert scene.service.leader is not None
    assert scene.service.leader.instance == "a"
    assert scene.service.settled


async def test_a_handover_is_published_as_one_change(scene: Scene) -> None:
    before = len(scene.published)
    # Two watches see two changes, one after the other.
    await scene.consul.maintain_service("a", "drain")
    await settle()
    scene.consul.lead("b")
    await scene.change()
    assert len(scene.published) == before + 1
    found = assign(scene.service)["triton"]
    assert [[i.id for i in group] for group in found.priorities] == [["b"]]
    assert [i.id for i in found.withdrawn] == ["a"]


async def test_an_event_without_a_change_is_not_published(scene: Scene) -> None:
    before = len(scene.published)
    await scene.change()
    assert len(scene.published) == before


async def test_an_excluded_instance_is_reported(scene: Scene) -> None:
    scene.consul.up("c")
    entry = scene.consul.model.services["c"]
    scene.consul.model.services["c"] = replace(entry, meta={})
    await scene.change()
    assert [found.id for found in scene.recorded.excluded] == ["c"]
    assert scene.ids == ["a", "b"]


async def test_the_watches_of_all_services_share_a_budget_of_retries() -> None:
    names = [f"s{number}" for number in range(70)]
    scene = Scene(*names)
    scene.consul.up("xds", OWN)
    for name in names:
        scene.consul.up(f"of-{name}", name)
    scene.consul.fault = Unavailable("Consul: no answer in time")
    async with running(scene):
        await scene.clock.advance(10 * MINUTE)
        # Without it, 210 watches would query more than 8,000 times; `running` takes 0.1 s.
        assert len(scene.recorded.failures) <= 210 + 20 + 10 * (10 * MINUTE + 0.1)
        scene.consul.fault = None
        await scene.clock.advance(5.0)
        assert all(service.settled for service in scene.published[-1].services)
