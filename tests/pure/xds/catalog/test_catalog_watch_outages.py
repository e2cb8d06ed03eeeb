"""A catalog watch in an outage: no answer, no servers, a token that hides, a restarted agent."""

import pytest

from sidecar.runtime.errors import SidecarError, Unavailable
from sidecar.xds.catalog.health_query import HealthReply
from tests.support.consul_model import ConsulModel, Servers
from tests.support.xds.catalog_scene import MINUTE, OWN, Scene
from tests.support.xds.catalog_scene import generation as generation
from tests.support.xds.catalog_scene import scene as scene

MAY_NOT_READ = "service:read for 'triton'"


@pytest.mark.parametrize("outage", ["no answer", "no leader"])
async def test_without_an_answer_the_catalog_stays(scene: Scene, outage: str) -> None:
    scene.consul.omits_all = True
    if outage == "no answer":
        scene.consul.fault = Unavailable("Consul: no answer in time")
    else:
        scene.consul.leader = False
    await scene.change()
    await scene.clock.advance(10 * MINUTE)
    assert scene.ids == ["a", "b"]
    assert len(scene.published) == 1
    assert scene.recorded.failures
    scene.consul.fault, scene.consul.leader, scene.consul.omits_all = None, True, False
    scene.consul.up("c")
    await scene.change()
    await scene.clock.advance(20.0)
    assert scene.ids == ["a", "b", "c"]


@pytest.mark.parametrize("servers", [Servers.GONE, Servers.LEADERLESS], ids=str)
@pytest.mark.parametrize("restarted", [False, True])
async def test_without_servers_the_catalog_stays_and_it_is_reported(
    scene: Scene, servers: Servers, restarted: bool
) -> None:
    """Whatever the agent continues to stream, and even if it was restarted."""
    await scene.consul.set_servers(servers)
    if restarted:
        await scene.consul.restart_agent()
    await scene.change()
    await scene.clock.advance(10 * MINUTE)
    assert scene.ids == ["a", "b"]
    assert len(scene.published) == 1
    assert scene.recorded.failing >= {"lock", "policy"}
    await scene.consul.set_servers(Servers.LEADING)
    scene.consul.up("c")
    await scene.change()
    await scene.clock.advance(40.0)
    assert scene.ids == ["a", "b", "c"]
    assert not scene.recorded.failing


@pytest.mark.parametrize("fault", [Unavailable("no answer in time"), None])
async def test_after_an_outage_it_does_not_wait_for_the_stream(
    scene: Scene, fault: SidecarError | None
) -> None:
    """An agent that has lost the servers may take minutes until it is subscribed again."""
    scene.consul.fault = fault
    await scene.consul.set_servers(Servers.LEADING if fault else Servers.GONE)
    await scene.change()
    await scene.clock.advance(10.0)
    scene.consul.fault, scene.consul.resubscribing = None, True
    await scene.consul.set_servers(Servers.LEADING)
    await scene.clock.advance(20.0)
    assert not scene.recorded.failing
    scene.consul.up("c")
    await scene.change()
    assert scene.ids == ["a", "b", "c"]


async def test_a_token_that_may_read_nothing_empties_no_service(scene: Scene) -> None:
    scene.consul.omits_all = True
    await scene.change()
    await scene.clock.advance(10 * MINUTE)
    assert scene.ids == ["a", "b"]
    assert len(scene.published) == 1


async def test_a_token_that_may_read_only_the_control_planes_entry_proves_nothing(
    scene: Scene,
) -> None:
    scene.consul.omits_service = "triton"
    await scene.change()
    await scene.clock.advance(10 * MINUTE)
    assert scene.ids == ["a", "b"]
    assert any(MAY_NOT_READ in why for why in scene.recorded.failures)


@pytest.mark.parametrize("reply", [HealthReply.SERVES, None])
async def test_an_instance_hidden_by_the_token_is_not_gone(
    scene: Scene, reply: HealthReply | None
) -> None:
    """Later versions of Consul mark a filtered list, but not streamed answers."""
    for name in "cde":
        scene.consul.up(name)
    await scene.change()
    if reply:
        scene.replies |= {"d": reply}
    scene.consul.omits_instance = "d"
    await scene.change()
    await scene.clock.advance(70 * MINUTE)
    assert scene.ids == [*"abcde"]
    assert any(MAY_NOT_READ in why for why in scene.recorded.failures)


async def test_an_agent_that_lost_its_state_changes_nothing(scene: Scene) -> None:
    scene.consul.fault = Unavailable("Consul: connection reset")
    await scene.change()
    scene.consul.model = ConsulModel(index=1)
    scene.consul.fault = None
    scene.replies |= dict.fromkeys("ab", HealthReply.SERVES)
    await scene.clock.advance(5.0)
    # The sidecars register again, one after the other, and elect again at a lower index.
    scene.consul.up("b")
    await scene.change()
    scene.consul.up("a")
    scene.consul.up("xds", OWN)
    await scene.change()
    assert len(scene.published) == 1
    scene.consul.lead("b", epoch=3)
    await scene.change()
    assert scene.service.leader is not None
    assert (scene.service.leader.instance, scene.service.leader.epoch) == ("b", 3)


async def test_an_older_epoch_is_not_accepted_without_proof(scene: Scene) -> None:
    scene.consul.consistent_fault = Unavailable("Consul: no quorum")
    scene.consul.lead("b", epoch=1)
    await scene.change()
    await scene.clock.advance(MINUTE)
    assert scene.service.leader is not None
    assert scene.service.leader.instance == "a"
    scene.consul.consistent_fault = None
    await scene.clock.advance(MINUTE)
    assert scene.service.leader is not None
    assert scene.service.leader.instance == "b"
