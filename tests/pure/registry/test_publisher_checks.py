"""A publisher and the other checks of its entry: the node's, the agent's, an operator's."""

from dataclasses import replace

import pytest

from tests.support.consul_model import Servers
from tests.support.publishing import DISK, PASSING, publishing
from tests.support.rewording import any_words as any_words
from tests.support.virtual_clock import settle


@pytest.mark.parametrize(
    "whose", [pytest.param("service", marks=pytest.mark.wording), "node", "check"]
)
async def test_checks_of_others_are_noticed_immediately(whose: str) -> None:
    """No time passes: nothing is polled."""

    async def change(on: bool) -> None:
        reason = "new disk" if on else None
        match whose:
            case "service":
                await scene.consul.maintain_service("t-0", reason)
            case "node":
                await scene.consul.maintain_node(reason)
            case _:
                model = scene.consul.model
                await scene.consul.change(lambda _: model.check_node(DISK if on else None, DISK.id))
        await settle()

    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.clock.advance(3)
        await change(on=True)
        wanted = "disk: is full" if whose == "check" else "new disk"
        assert scene.said() == (wanted, whose == "service")
        await change(on=False)
        assert scene.said() == (None, False)


async def test_without_servers_the_agent_is_queried_for_the_checks_of_others() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.consul.set_servers(Servers.GONE)
        await scene.consul.maintain_node("new kernel")
        await scene.clock.advance(5)
        assert scene.publisher.maintained.value == "new kernel"


@pytest.mark.parametrize("whose", ["node", "check"])
async def test_a_check_that_the_agent_has_cleared_no_longer_counts_without_servers(
    whose: str,
) -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        model = scene.consul.model
        if whose == "node":
            await scene.consul.maintain_node("new kernel")
        else:
            await scene.consul.change(lambda _: model.check_node(DISK, DISK.id))
        await scene.clock.advance(5)
        assert scene.said()[0]
        await scene.consul.set_servers(Servers.GONE)
        await scene.clock.advance(5)
        assert scene.said()[0]
        if whose == "node":
            await scene.consul.maintain_node(None)
        else:
            fine = replace(DISK, status="passing")
            await scene.consul.change(lambda _: model.check_node(fine, fine.id))
        await scene.clock.advance(5)
        assert scene.said() == (None, False)


async def test_the_agents_present_check_overrides_the_catalogs() -> None:
    """Servers that are cut off are noticed only after a minute."""
    async with publishing() as scene:
        await scene.shown(PASSING)
        model = scene.consul.model
        await scene.consul.change(lambda _: model.check_node(DISK, DISK.id))
        await scene.clock.advance(5)
        assert scene.said() == ("disk: is full", False)
        scene.consul.hanging.add("health_node")
        fine = replace(DISK, status="passing")
        await scene.consul.change(lambda _: model.check_node(fine, fine.id))
        await scene.clock.advance(5)
        assert scene.said() == (None, False)


async def test_a_check_that_has_not_run_since_the_agent_started_does_not_count() -> None:
    """However long that takes: Consul 1.8 does not report how often a check runs."""
    async with publishing() as scene:
        await scene.shown(PASSING)
        model, not_run = scene.consul.model, replace(DISK, output="")
        await scene.consul.change(lambda _: model.check_node(not_run, not_run.id))
        await scene.clock.advance(290)
        assert scene.said() == (None, False)
        await scene.consul.change(lambda _: model.check_node(DISK, DISK.id))
        await settle()
        assert scene.said() == ("disk: is full", False)
