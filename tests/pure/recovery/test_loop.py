"""The recovery loop on a manual clock, with a model of Consul."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from sidecar.consul.api import Check, QueryResult, ServiceEntry
from sidecar.events import Event, RecoveryActed, RecoveryDecided
from sidecar.recovery.actions import Action
from sidecar.recovery.decision import FIXED_BY_RESTART, Peers, RecoveryRules
from sidecar.recovery.loop import Recovery
from sidecar.recovery.other_instances import look
from sidecar.runtime.errors import Rejected, Unavailable
from sidecar.runtime.latest import Latest
from sidecar.settings.tables.recovery import CommandAction, RecoverySettings
from sidecar.verdict.evidence import HUNG, Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State
from tests.support.consul_model import FakeConsul
from tests.support.virtual_clock import VirtualClock, settle

RULES = RecoveryRules(
    after=30, hung_after=0, budget=2, pause=30, max_pause=600, grace=10, forget_after=300
)
FAILED = Verdict(State.CRITICAL, Reason.CANARY_FAILED, "m: no")
HANGS = Verdict(State.CRITICAL, Reason.MODEL_HUNG, "m")
PASSING = Verdict(State.PASSING, Reason.OK)


class LossyConsul(FakeConsul):
    """Its answers can be lost, come from servers without a leader, or be filtered by ACLs."""

    lost = leaderless = narrow = False

    async def health_service(self, name: str, **how: Any) -> QueryResult[tuple[ServiceEntry, ...]]:
        if self.lost:
            raise Unavailable("the agent is away")
        answer = await super().health_service(name, **how)
        return replace(answer, known_leader=not self.leaderless, filtered=self.narrow)

    async def register(self, name: str, status: str) -> None:
        check = {"CheckID": f"{name}:verdict", "Name": "verdict"}
        await self.register_service(
            {"ID": name, "Name": "t", "Address": "::1", "Port": 1, "Checks": [check]}
        )
        await self.set(name, status)

    async def set(self, name: str, status: Any) -> None:
        await self.update_check(f"{name}:verdict", status, "")


class Scene:
    def __init__(self, rules: RecoveryRules) -> None:
        self.clock, self.consul = VirtualClock(), LossyConsul()
        self.verdict = Latest(PASSING)
        self.acted: list[float] = []
        self.events: list[Event] = []
        self.error: Exception | None = None
        self.looked = 0
        self.action = Action("restart it", self._act)
        self.recovery = Recovery(
            self.verdict, self._look, rules, self.action, self.clock, self.events.append
        )

    async def _look(self) -> Peers:
        self.looked += 1
        return await look(self.consul, "t", "a")

    async def _act(self) -> None:
        self.acted.append(self.clock.now() - 1000)
        await self.clock.sleep(2)
        if self.error:
            raise self.error

    @property
    def decided(self) -> list[tuple[str, str]]:
        decisions = [event for event in self.events if isinstance(event, RecoveryDecided)]
        return [(event.outcome, event.why) for event in decisions]


@asynccontextmanager
async def recovery(rules: RecoveryRules = RULES) -> AsyncIterator[Scene]:
    scene = Scene(rules)
    await scene.consul.register("a", "critical")
    await scene.consul.register("b", "passing")
    loop = asyncio.create_task(scene.recovery.run())
    await settle()
    yield scene
    assert not loop.done()
    loop.cancel()


async def test_while_an_instance_passes_nothing_is_done_or_read() -> None:
    async with recovery() as scene:
        await scene.clock.advance(10_000)
        assert (scene.acted, scene.events, scene.looked) == ([], [], 0)
        assert scene.recovery.status.value == "idle"


async def test_it_acts_with_growing_pauses_and_gives_up() -> None:
    async with recovery() as scene:
        scene.verdict.set(FAILED)
        await scene.clock.advance(10_000)
        assert scene.acted == [30, 62]  # 30 s unhealthy; 2 s of action and 30 s of pause
        whats = [what for what, _ in scene.decided]
        assert whats == ["wait", "act", "wait", "act", "wait", "give up"]
        assert scene.recovery.status.value == f"give up ({scene.decided[-1][1]})"


async def test_a_hung_model_triggers_an_action_at_once() -> None:
    async with recovery() as scene:
        await scene.clock.advance(100)
        scene.verdict.set(HANGS)
        await settle()
        assert scene.acted == [100]
        assert scene.recovery.status.value == "act: restart it (MODEL_HUNG: m)"


async def test_an_instance_that_recovers_in_time_is_not_restarted() -> None:
    async with recovery() as scene:
        scene.verdict.set(FAILED)
        await scene.clock.advance(29)
        scene.verdict.set(PASSING)
        await scene.clock.advance(1)
        scene.verdict.set(FAILED)
        await scene.clock.advance(29)
        assert scene.acted == []
        await scene.clock.advance(1)
        assert scene.acted == [60]


async def test_each_action_is_reported_with_its_outcome() -> None:
    async with recovery() as scene:
        scene.verdict.set(HANGS)
        await scene.clock.advance(2)
        scene.error = Rejected("may not")
        await scene.clock.advance(100)
        actions = [event for event in scene.events if isinstance(event, RecoveryActed)]
        assert actions == [
            RecoveryActed("restart it", "MODEL_HUNG: m", 2.0),
            RecoveryActed("restart it", "MODEL_HUNG: m", 2.0, "may not"),
        ]


async def test_a_dry_run_decides_the_same_and_does_nothing() -> None:
    async with recovery() as wet, recovery(replace(RULES, dry_run=True)) as dry:
        for scene in (wet, dry):
            scene.verdict.set(FAILED)
            await scene.clock.advance(1000)
        assert dry.acted == []
        assert dry.decided == wet.decided
        assert all(isinstance(event, RecoveryDecided) and event.dry_run for event in dry.events)
        assert dry.recovery.status.value.endswith("dry run")


async def test_a_pause_uses_no_budget_and_due_actions_follow_it() -> None:
    async with recovery() as scene:
        scene.recovery.pause(paused=True)
        scene.verdict.set(FAILED)
        await scene.clock.advance(4000)
        assert (scene.acted, scene.looked) == ([], 0)
        assert [what for what, _ in scene.decided] == ["wait", "wait"]
        assert not any(isinstance(each, RecoveryDecided) and each.dry_run for each in scene.events)
        scene.recovery.pause(paused=False)
        await scene.clock.advance(10_000)
        # As if there had been no pause: the whole budget, with the short pauses first.
        assert scene.acted == [4000, 4032]
        assert scene.decided[-1][0] == "give up"


async def test_it_does_not_give_up_during_a_pause_that_outlasts_the_hour_of_its_actions() -> None:
    async with recovery() as scene:
        scene.verdict.set(FAILED)
        await scene.clock.advance(70)
        assert len(scene.acted) == 2
        scene.recovery.pause(paused=True)
        await scene.clock.advance(4000)
        assert "give up" not in dict(scene.decided)
        scene.recovery.pause(paused=False)
        await settle()
        assert len(scene.acted) == 3


async def test_a_recovery_that_gave_up_stays_so_after_a_pause() -> None:
    async with recovery() as scene:
        scene.verdict.set(HANGS)
        await scene.clock.advance(1000)
        for paused in (True, False):
            scene.recovery.pause(paused)
            await scene.clock.advance(100)
            assert scene.recovery.status.value.startswith("give up")
        assert len(scene.acted) == 2


async def test_the_pretended_actions_of_a_dry_run_are_forgotten_when_it_ends() -> None:
    dry = replace(RULES, dry_run=True)
    async with recovery(dry) as scene:
        scene.verdict.set(FAILED)
        await scene.clock.advance(35)  # one action was pretended, and its pause continues
        scene.recovery.configure(dry, scene.action)
        await settle()
        assert scene.recovery.status.value.startswith("wait (pausing for 30 s")
        scene.recovery.configure(RULES, scene.action)
        await scene.clock.advance(10_000)
        assert scene.acted == [35, 67]


async def test_it_does_not_restart_the_last_instance_while_another_is_down() -> None:
    async with recovery() as scene:
        await scene.consul.set("b", "critical")
        scene.verdict.set(FAILED)
        await scene.clock.advance(1000)
        assert scene.acted == []
        assert scene.decided[-1][0] == "wait"
        assert len(scene.decided) == 2  # an unchanged decision is reported once
        await scene.consul.set("b", "warning")
        await scene.clock.advance(2)
        assert len(scene.acted) == 1


async def test_it_may_be_allowed_to_act_while_another_is_down() -> None:
    async with recovery(replace(RULES, allow_others_down=True)) as scene:
        await scene.consul.set("b", "critical")
        scene.verdict.set(FAILED)
        await scene.clock.advance(30)
        assert (len(scene.acted), scene.looked) == (1, 0)


@pytest.mark.parametrize(
    ("allowed", "actions"),
    [(False, 0), (True, 1)],
)
async def test_without_consul_it_acts_only_if_it_may_while_others_are_down(
    allowed: bool, actions: int
) -> None:
    async with recovery(replace(RULES, allow_others_down=allowed)) as scene:
        scene.consul.lost = True
        scene.verdict.set(FAILED)
        await scene.clock.advance(31)
        assert len(scene.acted) == actions


async def test_an_instance_that_passes_while_the_others_are_read_is_not_restarted() -> None:
    async with recovery() as scene:
        looked = scene._look

        async def slowly() -> Peers:
            scene.verdict.set(PASSING)
            return await looked()

        scene.recovery._others = slowly
        scene.verdict.set(HANGS)
        await settle()
        assert scene.acted == []


async def test_a_healthy_period_ends_giving_up_but_does_not_refill_the_budget() -> None:
    async with recovery() as scene:
        scene.verdict.set(HANGS)
        await scene.clock.advance(1000)
        assert scene.decided[-1][0] == "give up"
        scene.verdict.set(PASSING)
        await scene.clock.advance(299)
        assert scene.decided[-1][0] == "give up"
        await scene.clock.advance(1)
        assert scene.decided[-1] == ("idle", "")
        scene.verdict.set(HANGS)
        await settle()
        assert scene.decided[-1][0] == "give up"
        assert len(scene.acted) == 2


async def test_a_reload_lets_it_start_over() -> None:
    async with recovery() as scene:
        scene.verdict.set(HANGS)
        await scene.clock.advance(1000)
        scene.recovery.configure(replace(RULES, hung_after=5), scene.action)
        await scene.clock.advance(5)
        assert len(scene.acted) == 3


async def test_a_reload_makes_a_waiting_recovery_decide_again() -> None:
    async with recovery() as scene:
        scene.verdict.set(FAILED)
        await scene.clock.advance(1)
        scene.recovery.configure(replace(RULES, after=1), scene.action)
        await settle()
        assert scene.acted == [1]


@pytest.mark.parametrize(
    ("statuses", "others"),
    [
        ({}, Peers(0, 0)),
        ({"b": "passing", "c": "warning"}, Peers(2, 0)),
        ({"b": "critical", "c": "warning"}, Peers(2, 1)),
        ({"b": "critical", "c": "critical"}, Peers(2, 2)),
    ],
)
async def test_the_others_are_counted(statuses: dict[str, str], others: Peers) -> None:
    consul = LossyConsul()
    for name, status in {"a": "critical", **statuses}.items():
        await consul.register(name, status)
    assert await look(consul, "t", "a") == others


async def test_an_instance_in_maintenance_counts_as_down() -> None:
    consul = LossyConsul()
    await consul.register("a", "critical")
    await consul.register("b", "passing")
    await consul.maintain_service("b", "upgrade")
    assert await look(consul, "t", "a") == Peers(1, 1)


async def test_an_instance_on_a_node_in_maintenance_counts_as_down() -> None:
    consul = LossyConsul()
    await consul.register("a", "critical")
    await consul.register("b", "passing")
    await consul.maintain_node("new kernel")
    assert await look(consul, "t", "a") == Peers(1, 1)


async def test_ghosts_are_not_counted() -> None:
    """Nor is the instance's own ghost, on the node that it has left."""
    consul = LossyConsul()
    for name in ("a", "b"):
        await consul.register(name, "passing")
    real = consul.health_service

    async def with_ghosts(name: str, **how: Any) -> QueryResult[tuple[ServiceEntry, ...]]:
        answer = await real(name, **how)
        gone = Check("serfHealth", "Serf Health Status", "critical", "Agent not live", "")
        ghosts = tuple(replace(each, node="old", checks=(gone,)) for each in answer.value)
        return replace(answer, value=(*ghosts, *answer.value))

    consul.health_service = with_ghosts  # type: ignore[method-assign]
    assert await look(consul, "t", "a") == Peers(1, 0)


async def test_an_answer_that_proves_nothing_about_the_others_is_unknown() -> None:
    consul = LossyConsul()
    assert await look(consul, "t", "a") == Peers(unknown="the catalog does not list a itself")
    consul.leaderless = True
    assert (await look(consul, "t", "a")).unknown
    consul.lost = True
    assert await look(consul, "t", "a") == Peers(unknown="the agent is away")


async def test_other_instances_hidden_by_acls_are_unknown() -> None:
    consul = LossyConsul()
    await consul.register("a", "critical")
    assert await look(consul, "t", "a") == Peers(0, 0)
    consul.narrow = True
    unknown = "the ACL token may not see all instances of t"
    assert await look(consul, "t", "a") == Peers(unknown=unknown)


def test_rules_follow_the_settings() -> None:
    action = CommandAction(kind="command", command=("/bin/true",))
    assert RecoverySettings(action=action).rules == RecoveryRules()
    assert RecoverySettings().rules == RecoveryRules(reasons=frozenset())
    assert RecoverySettings(after=7).rules.hung_after == 7
    hung = RecoverySettings(after=7, hung_after=0).rules
    assert (hung.hung_after, hung.unanswered_after) == (0, 0)
    unanswered = RecoverySettings(hung_after=0, unanswered_after=9).rules
    assert (unanswered.hung_after, unanswered.unanswered_after) == (0, 9)
    chosen = RecoverySettings(action=action, reasons=(Reason.MODEL_HUNG,)).rules.reasons
    assert chosen == {Reason.MODEL_HUNG}
    assert chosen < HUNG < FIXED_BY_RESTART
