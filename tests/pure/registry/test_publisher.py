"""The publishing loops against a model of Consul that can be slow, silent and forgetful."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from sidecar.consul.api import Check, QueryResult, ServiceEntry, Status
from sidecar.events import Event, Published, Registered
from sidecar.health.decision import Override, overridden
from sidecar.registry import registration as record
from sidecar.registry.publisher import Publisher
from sidecar.registry.registration import InstanceInfo, InstanceMeta
from sidecar.runtime.errors import Unavailable
from sidecar.runtime.latest import Latest
from sidecar.verdict import verdict_line
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import UNPROVEN, Verdict
from sidecar.verdict.verdict_line import State
from tests.support.consul_model import FakeConsul, Servers
from tests.support.rewording import any_words as any_words
from tests.support.virtual_clock import VirtualClock, settle

INSTANCE = InstanceInfo("t-0", "t", "127.0.0.1", 8001, 1, (), (), ("m",), "127.0.0.1:9001", "live")
PASSING = Verdict(State.PASSING, Reason.OK)
CRITICAL = Verdict(State.CRITICAL, Reason.CANARY_UNANSWERED, "m: no answer within 2 s")


class FaultyConsul(FakeConsul):
    """Fails or hangs the calls it is told to, and notes every push."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: set[str] = set()
        self.hanging: set[str] = set()
        self.pushed: list[tuple[Status, str]] = []
        self.stale: str | None = None  # the verdict's status that the catalog is stuck at

    async def _trouble(self, call: str) -> None:
        if call in self.hanging:
            await asyncio.Event().wait()
        if call in self.failing:
            raise Unavailable(call)

    async def update_check(self, check_id: str, status: Status, output: str) -> None:
        await self._trouble("update_check")
        await super().update_check(check_id, status, output)
        self.pushed.append((status, output))

    async def register_service(self, registration: Any) -> None:
        await self._trouble("register_service")
        await super().register_service(registration)
        self.stale = None

    async def maintain_service(self, service_id: str, reason: str | None) -> None:
        await self._trouble("maintain_service")
        await super().maintain_service(service_id, reason)

    async def health_node(
        self, node: str, *, index: int = 0, wait: float = 0
    ) -> QueryResult[tuple[Check, ...]]:
        answer = await super().health_node(node, index=index, wait=wait)
        await self._trouble("health_node")
        return answer

    async def health_service(
        self,
        name: str,
        *,
        index: int = 0,
        wait: float = 0,
        consistent: bool = False,
        dc: str = "",
        streamed: bool = True,
    ) -> QueryResult[tuple[ServiceEntry, ...]]:
        await self._trouble("health_service")
        answer = await super().health_service(name, index=index, wait=wait)
        if self.stale is None:
            return answer
        (entry,) = answer.value
        checks = tuple(
            replace(check, status=self.stale) if check.id == INSTANCE.verdict_check else check
            for check in entry.checks
        )
        return replace(answer, value=(replace(entry, checks=checks),))


@dataclass
class Scene:
    consul: FaultyConsul
    clock: VirtualClock
    verdict: Latest[Verdict] = field(default_factory=lambda: Latest(UNPROVEN))
    standing: InstanceMeta = field(default_factory=InstanceMeta)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.publisher = Publisher(
            self.consul,
            self.verdict,
            lambda: (INSTANCE, self.standing),
            lambda verdict: verdict.summary,
            self.clock,
            self.events.append,
        )

    def entry(self) -> ServiceEntry | None:
        return self.consul.model.services.get("t-0")

    def maintenance(self) -> str:
        """Whose maintenance mode the instance is in, if it is."""
        entry = self.entry()
        if record.withdrawn(entry):
            return "its own"
        return "" if record.maintenance(entry) is None else "another's"

    def said(self) -> tuple[str | None, bool]:
        """What others say, and whether its own entry holds it."""
        return self.publisher.maintained.value, self.publisher.stays

    def registrations(self) -> list[str]:
        return [event.why for event in self.events if isinstance(event, Registered)]

    async def shown(self, verdict: Verdict) -> None:
        """The sidecar comes to a verdict."""
        self.verdict.set(replace(verdict, at=self.clock.now()))
        await settle()


@asynccontextmanager
async def publishing(consul: FaultyConsul | None = None) -> AsyncIterator[Scene]:
    scene = Scene(consul or FaultyConsul(), VirtualClock())
    loops = [
        asyncio.create_task(scene.publisher.push()),
        asyncio.create_task(scene.publisher.keep()),
        asyncio.create_task(scene.publisher.watch()),
    ]
    await settle()
    yield scene
    assert [loop for loop in loops if loop.done()] == []
    for loop in loops:
        loop.cancel()


async def test_it_registers_and_pushes_what_the_verdict_is() -> None:
    async with publishing() as scene:
        assert scene.registrations() == ["not registered"]
        await scene.shown(PASSING)
        await scene.shown(CRITICAL)
        assert [status for status, _ in scene.consul.pushed] == ["critical", "passing", "critical"]
        assert scene.consul.pushed[-1][1] == CRITICAL.summary
        assert scene.publisher.published.value == CRITICAL


async def test_a_heartbeat_goes_on_without_news_and_is_no_news() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        pushed = len(scene.consul.pushed)
        await scene.clock.advance(30)
        assert len(scene.consul.pushed) >= pushed + 9
        assert len([e for e in scene.events if isinstance(e, Published)]) == 2
        assert scene.registrations() == ["not registered"]


@pytest.mark.parametrize("servers", [Servers.LEADING, Servers.LEADERLESS, Servers.GONE], ids=str)
async def test_neither_slow_nor_failing_reads_hold_a_push_back(servers: Servers) -> None:
    """Consul without a leader fails every read of the catalog; the agent still takes checks."""
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


async def test_what_is_pushed_is_the_newest_verdict_after_a_silence() -> None:
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


async def test_what_somebody_deleted_comes_back() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.consul.deregister_service("t-0")
        await scene.clock.advance(7)
        assert scene.registrations() == ["not registered", "not registered"]
        assert scene.consul.pushed[-1][0] == "passing"
        entry = scene.entry()
        assert entry
        assert {check.status for check in entry.checks if check.id == "t-0:verdict"} == {"passing"}


async def test_a_status_that_the_agent_cannot_write_is_registered_anew() -> None:
    """The token of the last registration was revoked: the catalog stays at what it was."""
    async with publishing() as scene:
        await scene.shown(PASSING)
        scene.consul.stale = "passing"
        await scene.shown(CRITICAL)
        await scene.clock.advance(7)
        assert scene.registrations()[1:] == [
            "the catalog does not show that the verdict is critical"
        ]


async def rotate(scene: Scene) -> None:
    """The token is replaced, and the old one deleted."""
    scene.consul.revoked.add(scene.consul.token)
    scene.consul.token = "new"


async def in_catalog(scene: Scene) -> dict[str, str]:
    """The statuses of the instance's checks as the catalog shows them."""
    entries = (await scene.consul.health_service(INSTANCE.service)).value
    return {check.id: check.status for entry in entries for check in entry.checks}


async def test_a_token_that_was_replaced_is_given_to_the_agent() -> None:
    """Which has to write, when the sidecar is dead, that it is."""
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.clock.advance(7)
        assert len(scene.registrations()) == 1
        await rotate(scene)
        await scene.clock.advance(7)
        assert scene.registrations()[1:] == ["the agent keeps an outdated token"]
        await scene.consul.update_check(INSTANCE.sidecar_check, "critical", "refused")
        assert (await in_catalog(scene))[INSTANCE.sidecar_check] == "critical"


async def test_a_token_that_was_replaced_while_it_drains_is_given_to_the_agent() -> None:
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


async def test_a_token_that_was_replaced_just_before_it_deregisters_leaves_no_ghost() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.publisher.withdraw()
        await settle()
    await rotate(scene)
    await scene.publisher.deregister()
    assert await in_catalog(scene) == {}
    assert scene.entry() is None


async def test_what_is_gone_from_the_agent_is_not_registered_to_deregister_it() -> None:
    async with publishing() as scene:
        await scene.publisher.withdraw()
        await scene.consul.deregister_service("t-0")
    await rotate(scene)
    await scene.publisher.deregister()
    assert scene.registrations() == ["not registered"]


async def test_a_new_role_is_registered() -> None:
    async with publishing() as scene:
        scene.standing = InstanceMeta("primary", 42)
        scene.publisher.nudge()
        await settle()
        entry = scene.entry()
        assert entry
        assert entry.meta["epoch"] == "42"


async def test_withdrawing_keeps_the_status_and_registers_nothing_any_more() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.shown(overridden(PASSING, Override.DRAIN, "told to stop"))
        await scene.publisher.withdraw()
        scene.standing = InstanceMeta("primary", 42)
        await scene.clock.advance(10)
        assert scene.maintenance() == "its own"
        status, output = scene.consul.pushed[-1]
        assert status == "passing"
        assert (told := verdict_line.parse(output))
        assert told.state is State.DRAINING
        assert scene.registrations() == ["not registered"]


@pytest.mark.parametrize("verdict", [UNPROVEN, CRITICAL])
async def test_draining_makes_no_unfit_instance_pass(verdict: Verdict) -> None:
    async with publishing() as scene:
        await scene.shown(verdict)
        await scene.shown(overridden(verdict, Override.DRAIN, "told to stop"))
        await scene.clock.advance(10)
        assert {status for status, _ in scene.consul.pushed} == {"critical"}


async def test_a_withdrawal_that_failed_is_made_up_for() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        scene.consul.failing.add("maintain_service")
        with pytest.raises(Unavailable):
            await scene.publisher.withdraw()
        await settle()
        scene.consul.failing.clear()
        await scene.clock.advance(5)
        assert scene.maintenance() == "its own"


async def test_withdrawing_what_was_never_registered_leaves_it_so() -> None:
    consul = FaultyConsul()
    consul.failing.add("register_service")
    async with publishing(consul) as scene:
        await scene.publisher.withdraw()
        consul.failing.clear()
        await scene.clock.advance(10)
        assert scene.entry() is None


async def test_the_maintenance_of_a_predecessor_that_was_killed_is_lifted() -> None:
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
async def test_an_operators_maintenance_is_left_alone_and_told() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.consul.maintain_service("t-0", "new disk")
        await scene.clock.advance(5)
        assert scene.maintenance() == "another's"
        assert scene.publisher.maintained.value == "new disk"
        await scene.consul.maintain_service("t-0", None)
        await scene.clock.advance(5)
        assert scene.publisher.maintained.value is None


DISK = Check("disk", "disk", "critical", "is full", "")


@pytest.mark.parametrize(
    "whose", [pytest.param("service", marks=pytest.mark.wording), "node", "check"]
)
async def test_what_others_say_is_noticed_as_it_happens(whose: str) -> None:
    """No time passes: nothing is polled."""

    async def say(on: bool) -> None:
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
        await say(on=True)
        wanted = "disk: is full" if whose == "check" else "new disk"
        assert scene.said() == (wanted, whose == "service")
        await say(on=False)
        assert scene.said() == (None, False)


async def test_without_servers_the_agent_is_asked_what_others_say() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.consul.set_servers(Servers.GONE)
        await scene.consul.maintain_node("new kernel")
        await scene.clock.advance(5)
        assert scene.publisher.maintained.value == "new kernel"


@pytest.mark.parametrize("whose", ["node", "check"])
async def test_what_has_ended_at_the_agent_is_over_without_servers(whose: str) -> None:
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


async def test_what_the_agent_says_of_a_check_counts_before_what_the_catalog_showed() -> None:
    """Servers that are cut off take a minute to be missed."""
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


async def test_who_stops_on_a_node_in_maintenance_is_withdrawn_all_the_same() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.consul.maintain_node("new kernel")
        await scene.shown(overridden(PASSING, Override.DRAIN, "told to stop"))
        await scene.publisher.withdraw()
        assert scene.maintenance() == "its own"


async def test_who_stops_in_an_operators_maintenance_says_that_it_serves_no_more() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.consul.maintain_service("t-0", "new disk")
        scene.standing = InstanceMeta(hands_over=False)
        await scene.publisher.withdraw()
        entry = scene.entry()
        assert entry
        assert "hands_over" not in entry.meta
        assert scene.maintenance() == "another's"


async def test_that_it_serves_no_more_is_said_in_the_end_though_consul_did_not_answer() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.consul.maintain_service("t-0", "new disk")
        scene.standing = InstanceMeta(hands_over=False)
        scene.consul.failing.add("register_service")
        with pytest.raises(Unavailable):
            await scene.publisher.withdraw()
        scene.consul.failing.clear()
        await scene.clock.advance(5)
        entry = scene.entry()
        assert entry
        assert "hands_over" not in entry.meta
        assert scene.maintenance() == "another's"


async def test_a_ghost_that_looks_right_does_not_hide_that_the_entry_is_gone() -> None:
    async with publishing() as scene:
        await scene.shown(PASSING)
        await scene.clock.advance(5)
        real = scene.consul.health_service

        async def haunted(name: str, **how: Any) -> QueryResult[tuple[ServiceEntry, ...]]:
            answer = await real(name, **how)
            ghosts = tuple(replace(entry, node="old") for entry in answer.value)
            return replace(answer, value=ghosts)

        scene.consul.health_service = haunted  # type: ignore[method-assign]
        before = len(scene.registrations())
        await scene.clock.advance(5)
        assert scene.registrations()[before:] == ["not in the catalog"] * (
            len(scene.registrations()) - before
        )
        assert len(scene.registrations()) > before


async def test_a_check_that_has_not_run_since_the_agent_was_started_takes_nobody_out() -> None:
    """However long that takes: Consul 1.8 does not tell how often a check runs."""
    async with publishing() as scene:
        await scene.shown(PASSING)
        model, mute = scene.consul.model, replace(DISK, output="")
        await scene.consul.change(lambda _: model.check_node(mute, mute.id))
        await scene.clock.advance(290)
        assert scene.said() == (None, False)
        await scene.consul.change(lambda _: model.check_node(DISK, DISK.id))
        await settle()
        assert scene.said() == ("disk: is full", False)
