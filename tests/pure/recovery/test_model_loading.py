"""A served model that was unloaded is loaded again, if Triton and operators allow it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from sidecar.events import Event, RecoveryActed
from sidecar.recovery.actions import Action
from sidecar.recovery.decision import FIXED_BY_RESTART, Loadable, Peers, RecoveryRules
from sidecar.recovery.loop import Recovery
from sidecar.recovery.model_loading import ServedModels, state
from sidecar.runtime.errors import Disabled, NotAdmitted, Rejected, Unavailable
from sidecar.runtime.latest import Latest
from sidecar.triton.api import IndexEntry
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State
from tests.support.fake_triton import FakeTriton
from tests.support.prober_bench import model
from tests.support.virtual_clock import VirtualClock, settle

RULES = RecoveryRules(
    after=30, hung_after=0, budget=3, pause=30, max_pause=30, grace=10, load_timeout=60
)
GONE = Verdict(State.CRITICAL, Reason.MODEL_NOT_READY, "chat: no")
PASSING = Verdict(State.PASSING, Reason.OK)


class Scene:
    def __init__(self, rules: RecoveryRules, restartable: bool) -> None:
        self.clock = VirtualClock()
        self.triton = FakeTriton(self.clock, model("chat"), model("embed"), model("strange"))
        self.triton.repository_index = self._index  # type: ignore[method-assign]
        self.verdict = Latest(PASSING)
        self.restarts = self.looks = self.others_seen = 0
        self.events: list[Event] = []
        action = Action("restart it", self._restart) if restartable else None
        self.recovery = Recovery(
            self.verdict,
            self._others,
            rules,
            action,
            self.clock,
            self.events.append,
            ServedModels(self.triton, ("chat", "embed")),
        )

    async def _others(self) -> Peers:
        self.others_seen += 1
        return Peers(1, 0)

    async def _index(self, timeout: float) -> tuple[IndexEntry, ...]:
        self.looks += 1
        return await FakeTriton.repository_index(self.triton, timeout)

    async def _restart(self) -> None:
        self.restarts += 1

    def unload(self, *names: str) -> None:
        for name in names:
            self.triton.models[name].loaded = self.triton.models[name].ready = False
        self.verdict.set(GONE)

    @property
    def acted(self) -> list[tuple[str, str]]:
        done = [event for event in self.events if isinstance(event, RecoveryActed)]
        return [(event.action, event.error) for event in done]


@asynccontextmanager
async def recovery(rules: RecoveryRules = RULES, restartable: bool = True) -> AsyncIterator[Scene]:
    scene = Scene(rules, restartable)
    loop = asyncio.create_task(scene.recovery.run())
    await settle()
    yield scene
    assert not loop.done()
    loop.cancel()


@pytest.mark.parametrize("restartable", [True, False])
async def test_served_models_are_loaded_again_in_order_and_no_others(restartable: bool) -> None:
    rules = RULES if restartable else replace(RULES, reasons=frozenset())
    async with recovery(rules, restartable) as scene:
        scene.unload("embed", "strange", "chat")
        await scene.clock.advance(29)
        assert scene.triton.orders == []
        await scene.clock.advance(1)
        assert scene.triton.orders == ["load chat", "load embed"]
        assert scene.acted == [("load chat, embed", "")]
        assert scene.restarts == 0


async def test_a_failed_load_is_followed_by_a_restart_whose_loads_are_part_of_it() -> None:
    async with recovery() as scene:
        scene.triton.models["chat"].load_error = Rejected("INTERNAL: out of memory")
        scene.unload("chat", "embed")
        await scene.clock.advance(4000)
        assert scene.triton.orders[:2] == ["load chat", "load embed"]
        assert scene.acted[0] == ("load chat, embed", "chat: INTERNAL: out of memory")
        assert [action for action, _ in scene.acted[1:]] == ["restart it", "load chat"] * 2
        assert scene.recovery.status.value.startswith("give up")


async def test_a_triton_without_explicit_loading_is_asked_once_and_restarted() -> None:
    async with recovery() as scene:
        scene.triton.models["chat"].load_error = Disabled("not in explicit mode")
        scene.unload("chat")
        await scene.clock.advance(31)
        assert scene.triton.orders == ["load chat"]
        assert scene.restarts == 1
        await scene.clock.advance(4000)
        # The budget was left for the restart.
        assert (scene.triton.orders, scene.restarts) == (["load chat"], 3)


async def test_if_nothing_can_be_done_it_says_so_and_does_not_give_up() -> None:
    async with recovery(replace(RULES, reasons=frozenset()), restartable=False) as scene:
        scene.triton.models["chat"].load_error = Disabled("not in explicit mode")
        scene.unload("chat")
        await scene.clock.advance(4000)
        assert scene.triton.orders == ["load chat"]
        assert scene.recovery.status.value.startswith("wait (MODEL_NOT_READY: chat: no: ")
        # Once before the attempt, once after; the other instances would not matter.
        assert (scene.looks, scene.others_seen) == (2, 0)


async def test_while_only_an_outside_change_can_help_the_index_is_read_rarely() -> None:
    async with recovery(replace(RULES, reasons=frozenset()), restartable=False) as scene:
        scene.verdict.set(GONE)  # although it is loaded
        await scene.clock.advance(3030)
        assert 90 <= scene.looks <= 110
        scene.unload("chat")
        await scene.clock.advance(31)
        assert scene.triton.orders == ["load chat"]


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(State.MAINTENANCE, Reason.MAINTENANCE),
        Verdict(State.COLD, Reason.COLD_STANDBY),
        Verdict(State.DRAINING, Reason.DRAINING),
        Verdict(State.STARTING, Reason.MODEL_NOT_READY),
    ],
)
async def test_a_model_that_an_operator_unloaded_stays_unloaded(verdict: Verdict) -> None:
    async with recovery() as scene:
        scene.unload("chat")
        scene.verdict.set(verdict)
        await scene.clock.advance(1000)
        assert scene.triton.orders == []


async def test_loading_stops_once_it_is_no_longer_wanted() -> None:
    async with recovery() as scene:
        scene.triton.models["chat"].load_delay = 5.0
        scene.unload("chat", "embed")
        await scene.clock.advance(31)
        scene.verdict.set(Verdict(State.COLD, Reason.COLD_STANDBY))
        await scene.clock.advance(100)
        assert scene.triton.orders == ["load chat"]


async def test_an_unreadable_index_proves_nothing() -> None:
    async with recovery() as scene:
        scene.unload("chat")
        scene.triton.refusal = Unavailable("busy")
        await scene.clock.advance(100)
        assert (scene.triton.orders, scene.restarts) == ([], 0)
        scene.triton.refusal = None
        await scene.clock.advance(2)
        assert scene.triton.orders == ["load chat"]


async def test_without_access_to_the_index_a_restart_is_still_possible() -> None:
    async with recovery() as scene:
        scene.unload("chat")
        scene.triton.refusal = NotAdmitted("UNAVAILABLE: This protocol is restricted")
        await scene.clock.advance(31)
        assert (scene.triton.orders, scene.restarts) == ([], 1)


async def test_a_pause_ends_a_series_of_loads() -> None:
    async with recovery() as scene:
        scene.triton.models["chat"].load_delay = 5.0
        scene.unload("chat", "embed")
        await scene.clock.advance(31)
        scene.recovery.pause(True)
        await scene.clock.advance(100)
        assert scene.triton.orders == ["load chat"]


async def test_a_dry_run_only_reports_loads() -> None:
    async with recovery(replace(RULES, dry_run=True)) as scene:
        scene.unload("chat")
        await scene.clock.advance(30)
        assert (scene.triton.orders, scene.acted) == ([], [])


@pytest.mark.parametrize(
    ("index", "found"),
    [
        ([("chat", "1", "READY"), ("embed", "1", "READY")], Loadable()),
        ([("chat", "1", "UNAVAILABLE"), ("embed", "1", "READY")], Loadable(("chat",))),
        (
            [("chat", "1", "UNAVAILABLE"), ("chat", "2", "READY"), ("embed", "1", "READY")],
            Loadable(),
        ),
        ([("chat", "", ""), ("embed", "1", "READY")], Loadable(("chat",))),
        ([("embed", "1", "READY"), ("strange", "1", "UNAVAILABLE")], Loadable(("chat",))),
        ([("chat", "1", "LOADING"), ("embed", "1", "READY")], Loadable((), ("chat",))),
        ([("chat", "1", "UNLOADING"), ("embed", "1", "READY")], Loadable((), ("chat",))),
        ([("embed", "1", "UNAVAILABLE")], Loadable(("chat", "embed"))),
    ],
)
def test_what_the_index_says_about_a_model(
    index: list[tuple[str, str, str]], found: Loadable
) -> None:
    entries = [IndexEntry(*each, reason="") for each in index]
    assert state(entries, ("chat", "embed")) == found


def test_an_unloaded_model_is_a_reason_for_a_restart_too() -> None:
    assert Reason.MODEL_NOT_READY in FIXED_BY_RESTART
