"""A catalog watch and the traffic policy: followed, rejected, hidden, and since when."""

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


async def test_without_a_document_the_default_policy_applies(scene: Scene) -> None:
    assert scene.service.policy == DEFAULTS


async def test_a_policy_is_followed(scene: Scene) -> None:
    scene.consul.order('{"mode": "strict"}')
    await scene.change()
    assert scene.service.policy.mode is Mode.STRICT
    scene.consul.order(None)
    await scene.change()
    assert scene.service.policy == DEFAULTS


async def test_an_invalid_policy_is_ignored_and_reported_once(scene: Scene) -> None:
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


async def test_a_hidden_policy_stays_in_force(scene: Scene) -> None:
    scene.consul.order('{"mode": "strict"}')
    await scene.change()
    scene.consul.omits_all = True
    await scene.change()
    await scene.clock.advance(10 * MINUTE)
    assert scene.service.policy.mode is Mode.STRICT
    assert "Permission denied" in scene.recorded.failures


async def test_a_token_without_access_to_the_keys_changes_no_policy(scene: Scene) -> None:
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


async def test_a_policy_is_not_taken_for_deleted_on_empty_servers(scene: Scene) -> None:
    scene.consul.order('{"mode": "strict"}')
    await scene.change()
    scene.consul.model.services.clear()
    scene.consul.order(None)
    await scene.change()
    assert scene.service.policy.mode is Mode.STRICT
    assert any("nothing proves" in why for why in scene.recorded.failures)


async def test_at_the_start_hidden_keys_are_not_taken_for_absent() -> None:
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


async def test_a_key_next_to_the_policy_is_not_taken_for_it(scene: Scene) -> None:
    key = policy_key("triton") + "-draft"
    scene.consul.model.keys[key] = KVEntry(key, b"garbage", None, 99, 0)
    await scene.change()
    assert (scene.service.policy, scene.recorded.refused) == (DEFAULTS, [])


async def test_since_when_sequences_have_been_followed_is_known(scene: Scene) -> None:
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


async def test_a_gap_in_the_watch_may_have_had_another_policy(scene: Scene) -> None:
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


async def test_envoys_without_a_policy_have_followed_no_sequence() -> None:
    """Its service is unsettled, because Consul refuses to show the policy.

    Each time that happens, sequences may have started in between.
    """
    scene = Scene("triton", "other")
    scene.consul.up("a")
    scene.consul.up("b", "other")
    scene.consul.order(FOLLOWED)
    found = {scene.consul.model.index}
    for start in range(1, 3):
        if start > 1:
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
        assert len(found) == 1 + start
