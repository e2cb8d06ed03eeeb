"""A publisher registers its instance, and pushes its verdict as the check's status."""

from dataclasses import replace
from typing import Any

import pytest

from sidecar.consul.api import QueryResult, ServiceEntry
from sidecar.events import Published
from sidecar.registry.registration import InstanceMeta
from tests.support.consul_model import Servers
from tests.support.publishing import CRITICAL, PASSING, publishing, rotate
from tests.support.rewording import any_words as any_words
from tests.support.virtual_clock import settle


async def test_it_registers_and_pushes_the_verdict() -> None:
    async with publishing() as scene:
        assert len(scene.registrations()) == 1
        await scene.shown(PASSING)
        await scene.shown(CRITICAL)
        assert [status for status, _ in scene.consul.pushed] == ["critical", "passing", "critical"]
        assert scene.consul.pushed[-1][1] == CRITICAL.summary
        assert scene.publisher.published.value == CRITICAL


async def test_heartbeats_continue_without_changes_and_are_not_events() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        pushed = len(scene.consul.pushed)
        await scene.clock.advance(30)
        assert len(scene.consul.pushed) >= pushed + 9
        assert len([e for e in scene.events if isinstance(e, Published)]) == 2
        assert len(scene.registrations()) == 1


@pytest.mark.parametrize("servers", [Servers.LEADING, Servers.LEADERLESS, Servers.GONE], ids=str)
async def test_neither_slow_nor_failing_reads_delay_a_push(servers: Servers) -> None:
    """Without a leader every read of the catalog fails; the agent still accepts check updates."""
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.consul.set_servers(servers)
        if servers is Servers.LEADING:
            scene.consul.hanging.add("health_service")
        await scene.clock.advance(10)
        await scene.shown(CRITICAL)
        assert scene.consul.pushed[-1][0] == "critical"
        await scene.clock.advance(30)
        assert len(scene.consul.pushed) > 12


async def test_after_an_outage_the_newest_verdict_is_pushed() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        scene.consul.failing.add("update_check")
        await scene.shown(CRITICAL)
        await scene.shown(PASSING)
        await scene.shown(CRITICAL)
        assert scene.publisher.published.value == PASSING
        scene.consul.failing.clear()
        await scene.clock.advance(1)
        assert scene.consul.pushed[-1][0] == "critical"
        assert scene.publisher.published.value == CRITICAL


async def test_a_deleted_entry_is_registered_again() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.consul.deregister_service("t-0")
        await scene.clock.advance(7)
        assert len(scene.registrations()) == 2
        assert scene.consul.pushed[-1][0] == "passing"
        entry = scene.entry()
        assert entry
        assert {check.status for check in entry.checks if check.id == "t-0:verdict"} == {"passing"}


async def test_a_status_that_the_agent_cannot_write_is_registered_again() -> None:
    """The token of the last registration was revoked: the catalog does not change any more."""
    async with publishing() as scene:
        await scene.shown(PASSING)
        scene.consul.stale = "passing"
        await scene.shown(CRITICAL)
        await scene.clock.advance(7)
        assert scene.registrations()[1:] == [
            "the catalog does not show that the verdict is critical"
        ]


async def test_an_entry_that_the_agent_has_lost_is_not_registered_only_to_be_deregistered() -> None:
    async with publishing() as scene:
        await scene.publisher.withdraw()
        await scene.consul.deregister_service("t-0")
    await rotate(scene)
    await scene.publisher.deregister()
    assert len(scene.registrations()) == 1


async def test_a_new_role_is_registered() -> None:
    async with publishing() as scene:
        scene.meta = InstanceMeta("primary", 42)
        scene.publisher.nudge()
        await settle()
        entry = scene.entry()
        assert entry
        assert entry.meta["epoch"] == "42"


async def test_a_ghost_does_not_hide_that_the_entry_is_gone() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.clock.advance(5)
        real = scene.consul.health_service

        async def only_ghosts(name: str, **how: Any) -> QueryResult[tuple[ServiceEntry, ...]]:
            answer = await real(name, **how)
            ghosts = tuple(replace(entry, node="old") for entry in answer.value)
            return replace(answer, value=ghosts)

        scene.consul.health_service = only_ghosts  # type: ignore[method-assign]
        before = len(scene.registrations())
        await scene.clock.advance(5)
        assert scene.registrations()[before:] == ["not in the catalog"] * (
            len(scene.registrations()) - before
        )
        assert len(scene.registrations()) > before
