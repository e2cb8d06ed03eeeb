"""A publisher withdraws its instance: draining, its own maintenance and an operator's."""

import pytest

from sidecar.health.decision import Override, overridden
from sidecar.registry.registration import InstanceMeta
from sidecar.runtime.errors import Unavailable
from sidecar.verdict import verdict_line
from sidecar.verdict.verdict import UNPROVEN, Verdict
from sidecar.verdict.verdict_line import State
from tests.support.publishing import CRITICAL, PASSING, FaultyConsul, publishing
from tests.support.rewording import any_words as any_words
from tests.support.virtual_clock import settle


async def test_withdrawing_keeps_the_status_and_stops_registering() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.shown(overridden(PASSING, Override.DRAIN, "told to stop"))
        await scene.publisher.withdraw()
        scene.meta = InstanceMeta("primary", 42)
        await scene.clock.advance(10)
        assert scene.maintenance() == "its own"
        status, output = scene.consul.pushed[-1]
        assert status == "passing"
        assert (parsed := verdict_line.parse(output))
        assert parsed.state is State.DRAINING
        assert len(scene.registrations()) == 1


@pytest.mark.parametrize("verdict", [UNPROVEN, CRITICAL])
async def test_draining_does_not_make_an_unfit_instance_pass(verdict: Verdict) -> None:
    async with publishing() as scene:
        await scene.shown(verdict)
        await scene.shown(overridden(verdict, Override.DRAIN, "told to stop"))
        await scene.clock.advance(10)
        assert {status for status, _ in scene.consul.pushed} == {"critical"}


async def test_a_failed_withdrawal_is_retried() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        scene.consul.failing.add("maintain_service")
        with pytest.raises(Unavailable):
            await scene.publisher.withdraw()
        await settle()
        scene.consul.failing.clear()
        await scene.clock.advance(5)
        assert scene.maintenance() == "its own"


async def test_withdrawing_an_unregistered_instance_does_not_register_it() -> None:
    consul = FaultyConsul()
    consul.failing.add("register_service")
    async with publishing(consul) as scene:
        await scene.publisher.withdraw()
        consul.failing.clear()
        await scene.clock.advance(10)
        assert scene.entry() is None


async def test_the_maintenance_of_a_killed_predecessor_is_lifted() -> None:
    consul = FaultyConsul()
    async with publishing(consul) as before:
        await before.shown(PASSING)
        await before.publisher.withdraw()
    async with publishing(consul) as scene:
        await scene.shown(PASSING)
        assert scene.maintenance() == ""
        assert scene.publisher.maintained.value is None


async def test_an_operators_maintenance_outlives_the_sidecar() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.consul.maintain_service("t-0", "new disk")
        await scene.clock.advance(5)
        await scene.shown(overridden(PASSING, Override.DRAIN, "told to stop"))
        await scene.publisher.withdraw()
        await scene.clock.advance(5)
        assert scene.maintenance() == "another's"
    async with publishing(scene.consul) as successor:
        await successor.shown(PASSING)
        assert successor.maintenance() == "another's"
        assert successor.publisher.maintained.value is not None


@pytest.mark.wording
async def test_an_operators_maintenance_is_kept_and_reported() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.consul.maintain_service("t-0", "new disk")
        await scene.clock.advance(5)
        assert scene.maintenance() == "another's"
        assert scene.publisher.maintained.value == "new disk"
        await scene.consul.maintain_service("t-0", None)
        await scene.clock.advance(5)
        assert scene.publisher.maintained.value is None


async def test_an_instance_that_stops_on_a_node_in_maintenance_is_withdrawn_too() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.consul.maintain_node("new kernel")
        await scene.shown(overridden(PASSING, Override.DRAIN, "told to stop"))
        await scene.publisher.withdraw()
        assert scene.maintenance() == "its own"


async def test_an_instance_that_stops_in_maintenance_publishes_that_it_no_longer_serves() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.consul.maintain_service("t-0", "new disk")
        scene.meta = InstanceMeta(hands_over=False)
        await scene.publisher.withdraw()
        entry = scene.entry()
        assert entry
        assert "hands_over" not in entry.meta
        assert scene.maintenance() == "another's"


async def test_that_it_no_longer_serves_is_published_once_consul_answers_again() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.consul.maintain_service("t-0", "new disk")
        scene.meta = InstanceMeta(hands_over=False)
        scene.consul.failing.add("register_service")
        with pytest.raises(Unavailable):
            await scene.publisher.withdraw()
        scene.consul.failing.clear()
        await scene.clock.advance(5)
        entry = scene.entry()
        assert entry
        assert "hands_over" not in entry.meta
        assert scene.maintenance() == "another's"
