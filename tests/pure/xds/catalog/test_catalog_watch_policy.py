"""A catalog watch and the traffic policy: followed, refused, hidden, and since when."""

from sidecar.consul.api import KVEntry
from sidecar.runtime.errors import Unavailable
from sidecar.traffic.document import policy_key
from sidecar.traffic.policy import DEFAULTS, Mode
from tests.support.xds.catalog_scene import (
    FOLLOWED,
    FOLLOWED_STRICTLY,
    MINUTE,
    Scene,
    in_force,
    running,
)
from tests.support.xds.catalog_scene import generation as generation
from tests.support.xds.catalog_scene import scene as scene


async def test_without_a_document_the_policy_is_as_by_default(scene: Scene) -> None:
    assert scene.service.policy == DEFAULTS


async def test_a_policy_is_followed(scene: Scene) -> None:
    scene.consul.order('{"mode": "strict"}')
    await scene.change()
    assert scene.service.policy.mode is Mode.STRICT
    scene.consul.order(None)
    await scene.change()
    assert scene.service.policy == DEFAULTS


async def test_a_bad_policy_is_ignored_and_told_once(scene: Scene) -> None:
    scene.consul.order('{"mode": "strict"}')
    await scene.change()
    scene.consul.order('{"mode": "lenient"}')
    await scene.change()
    await scene.change()
    assert scene.service.policy.mode is Mode.STRICT
    [why] = scene.recorded.refused
    assert "mode: expected" in why
    scene.consul.order('{"mode": "strict"}')
    await scene.change()
    assert scene.recorded.refused == [why, ""]


async def test_a_policy_that_is_hidden_stays(scene: Scene) -> None:
    scene.consul.order('{"mode": "strict"}')
    await scene.change()
    scene.consul.omits_all = True
    await scene.change()
    await scene.clock.advance(10 * MINUTE)
    assert scene.service.policy.mode is Mode.STRICT
    assert "Permission denied" in scene.recorded.failures


async def test_a_token_that_lost_only_the_keys_moves_no_policy(scene: Scene) -> None:
    scene.consul.order('{"mode": "strict"}')
    await scene.change()
    scene.consul.omits_keys = True
    await scene.change()
    await scene.clock.advance(10 * MINUTE)
    assert scene.service.policy.mode is Mode.STRICT
    assert scene.service.leader is not None
    scene.consul.omits_keys = False
    scene.consul.order(None)
    await scene.change()
    await scene.clock.advance(20.0)
    assert scene.service.policy == DEFAULTS


async def test_a_policy_is_not_believed_gone_by_servers_that_know_nobody(scene: Scene) -> None:
    scene.consul.order('{"mode": "strict"}')
    await scene.change()
    scene.consul.model.services.clear()
    scene.consul.order(None)
    await scene.change()
    assert scene.service.policy.mode is Mode.STRICT
    assert any("nothing proves" in why for why in scene.recorded.failures)


async def test_at_the_start_keys_that_are_hidden_are_not_taken_for_absent() -> None:
    scene = Scene("triton")
    scene.consul.up("a")
    scene.consul.order('{"mode": "strict"}')
    scene.consul.omits_keys = True
    async with running(scene):
        await scene.clock.advance(MINUTE)
        assert scene.published == []
        scene.consul.omits_keys = False
        await scene.clock.advance(20.0)
        assert (scene.service.settled, scene.service.policy.mode) == (True, Mode.STRICT)


async def test_a_service_is_unsettled_until_its_policy_is_known() -> None:
    scene = Scene("triton")
    scene.consul.up("a")
    scene.consul.forbidden_key = policy_key("triton")
    async with running(scene):
        assert scene.published == []
        scene.consul.forbidden_key = ""
        await scene.clock.advance(20.0)
        assert scene.service.settled


async def test_what_lies_beside_the_policy_is_not_taken_for_it(scene: Scene) -> None:
    key = policy_key("triton") + "-draft"
    scene.consul.model.keys[key] = KVEntry(key, b"garbage", None, 99, 0)
    await scene.change()
    assert (scene.service.policy, scene.recorded.refused) == (DEFAULTS, [])


async def test_how_long_sequences_have_been_followed_is_known(scene: Scene) -> None:
    first = await in_force(scene, FOLLOWED)
    assert (scene.service.since.written, scene.service.since.followed) == (first, first)
    second = await in_force(scene, FOLLOWED_STRICTLY)
    assert (scene.service.since.written, scene.service.since.followed) == (second, first)
    off = await in_force(scene, '{"mode": "strict"}')
    assert scene.service.since.followed == off
    on = await in_force(scene, FOLLOWED_STRICTLY)
    assert scene.service.since.followed == on
    await in_force(scene, '{"mode": "lenient"}')  # is not in force
    assert scene.service.since.followed == on


async def test_what_a_control_plane_did_not_see_may_have_been_another_policy(scene: Scene) -> None:
    first = await in_force(scene, FOLLOWED)
    for document, index in ((None, first), (FOLLOWED_STRICTLY, None)):
        scene.consul.fault = Unavailable("Consul: connection refused")
        await scene.change()
        if document:
            scene.consul.order(document)
            index = scene.consul.model.index
        scene.consul.fault = None
        await scene.clock.advance(20.0)
        assert scene.service.since.followed == index


async def test_envoys_that_were_told_of_no_policy_have_followed_no_sequence() -> None:
    """Its service is not settled, as Consul refuses to show the policy.

    Where that happens again there may be sequences from in between.
    """
    scene = Scene("triton", "other")
    scene.consul.up("a")
    scene.consul.up("b", "other")
    scene.consul.order(FOLLOWED)
    found = {scene.consul.model.index}
    for life in range(1, 3):
        if life > 1:
            scene = Scene("triton", "other", consul=scene.consul)
            await scene.clock.advance(MINUTE)
        scene.consul.forbidden_key = policy_key("triton")
        async with running(scene):
            await scene.clock.advance(MINUTE)
            [before, _] = scene.published[-1].services
            assert not before.settled
            scene.consul.forbidden_key = ""
            await scene.clock.advance(20.0)
            assert scene.service.settled
            found.add(scene.service.since.followed)
        assert len(found) == 1 + life
