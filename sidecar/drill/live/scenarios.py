"""The scenarios as they are run on a live mesh: each fault is ordered from the victim's sidecar.

Acts: through what it imports or is given.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from sidecar.drill.live import live, precheck, switchover
from sidecar.drill.live.precheck import DrillRefused
from sidecar.drill.live.running import DrillAborted
from sidecar.drill.live.stage import LiveStage
from sidecar.drill.scenario import Injection, Scenario
from sidecar.injection.rules import Code, Fault
from sidecar.operator.service_status import ServiceStatus

SWITCHOVER = "switchover"
_LONGEST = 120.0  # seconds for which a fault is ordered; the victim's max_seconds may be shorter
# A frozen sidecar cannot notice the end of the drill. Its session has to lapse, which takes up to
# 30 s by default, and the drill waits 45 s for the end.
_OF_FROZEN_SIDECAR = 45.0
_FAULTS: Mapping[str, Fault] = {fault.value: fault for fault in Fault}


def on_live_mesh(chosen: Sequence[Scenario[Any]]) -> tuple[Scenario[Any], ...]:
    """The scenarios with their live injections; one without needs what no live mesh offers."""
    return tuple(map(_live, chosen))


def possible(scenario: Scenario[Any]) -> bool:
    """Whether a scenario has a live injection."""
    return scenario.live and scenario.name in (SWITCHOVER, *_FAULTS)


def refusal(seen: ServiceStatus, scenario: Scenario[Any]) -> DrillRefused | None:
    """Why a scenario is refused without waiting for the steady state; None if it is not.

    That is because the instance that it is about does not permit it, or because of something that
    only an operator changes.
    """
    if not possible(scenario):
        return None
    if (found := precheck.refusal_of_mesh(seen, "")) and found.code in precheck.STAYS:
        return found
    if seen.primary is None:
        return None
    victim = seen.primary
    if scenario.victim == "standby":
        victim = next((each.id for each in seen.others), victim)
    found = precheck.refusal(seen, victim, _FAULTS.get(scenario.name))
    return found if found and found.code == Code.NOT_PERMITTED else None


def _live(scenario: Scenario[Any]) -> Scenario[Any]:
    if not possible(scenario):
        return replace(scenario, needs=scenario.needs | {"processes"})
    if scenario.name == SWITCHOVER:
        return replace(scenario, inject=_switched_over, needs=frozenset())
    inject = _ordered(scenario.name, _FAULTS[scenario.name])
    return replace(scenario, inject=inject, needs=frozenset())


def _ordered(name: str, fault: Fault) -> Injection[LiveStage]:
    seconds = _OF_FROZEN_SIDECAR if fault is Fault.SIDECAR_FROZEN else _LONGEST

    @asynccontextmanager
    async def ordered(stage: LiveStage, victim: str) -> AsyncIterator[float]:
        async with live.drill(stage.client, name, fault, victim, seconds=seconds) as running:
            yield running.ago
        over = running.over.value
        if over is None or over.code not in live.PROPER:
            code = over.code if over else Code.LOCK_LOST
            raise DrillAborted(code, f"the fault ended before the drill ordered it: {code}")

    return ordered


@asynccontextmanager
async def _switched_over(stage: LiveStage, victim: str) -> AsyncIterator[float]:
    ordered = await switchover.switch_over(stage.client, SWITCHOVER, victim)
    yield stage.client.clock.now() - ordered
