"""A publisher whose token is replaced."""

from tests.support.publishing import INSTANCE, PASSING, in_catalog, publishing, rotate
from tests.support.rewording import any_words as any_words
from tests.support.virtual_clock import settle


async def test_a_replaced_token_is_registered_with_the_agent() -> None:
    """The agent needs it to write that the sidecar is dead."""
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.clock.advance(7)
        assert len(scene.registrations()) == 1
        await rotate(scene)
        await scene.clock.advance(7)
        assert scene.registrations()[1:] == ["the agent keeps an outdated token"]
        await scene.consul.update_check(INSTANCE.sidecar_check, "critical", "refused")
        assert (await in_catalog(scene))[INSTANCE.sidecar_check] == "critical"


async def test_a_token_that_is_replaced_during_a_drain_is_registered_with_the_agent() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.publisher.withdraw()
        await rotate(scene)
        await scene.clock.advance(7)
        assert len(scene.registrations()) == 2
        assert scene.maintenance() == "its own"
    assert (await in_catalog(scene))[INSTANCE.verdict_check] == "passing"
    await scene.publisher.deregister()
    assert await in_catalog(scene) == {}


async def test_a_token_that_is_replaced_just_before_deregistration_leaves_no_ghost() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.publisher.withdraw()
        await settle()
    await rotate(scene)
    await scene.publisher.deregister()
    assert await in_catalog(scene) == {}
    assert scene.entry() is None
