"""The steps of stopping, in order, and which of them a second signal may skip."""

import asyncio
from types import SimpleNamespace
from typing import Any

from sidecar.app.shutdown import Shutdown
from sidecar.lifecycle import Step
from sidecar.runtime.errors import Unavailable
from tests.support.virtual_clock import VirtualClock


async def nothing() -> None:
    pass


def shutdown(publisher: Any, clock: VirtualClock) -> Shutdown:
    parts: Any = SimpleNamespace(
        hand_over=nothing, leave=nothing, drain=nothing, cut=nothing, settled=nothing
    )
    saving = Step("save_model_state", nothing, 1.0, skippable=True)
    return Shutdown(parts, parts, publisher, parts, parts, parts, [saving], 30.0, clock)


class Publisher:
    """Consul does not answer the first deregistrations."""

    keeps_entry = False

    def __init__(self, failing: int = 0) -> None:
        self.failing = failing
        self.calls = 0

    async def withdraw(self) -> None:
        pass

    async def deregister(self) -> None:
        self.calls += 1
        if self.calls <= self.failing:
            raise Unavailable("Consul: no answer in time")


def test_the_instance_is_withdrawn_first_and_the_lock_released_after_the_drain() -> None:
    steps = shutdown(Publisher(), VirtualClock()).steps(())
    assert [step.name for step in steps] == [
        "hand_over",
        "stop_serving",
        "withdraw",
        "drain",
        "reset_connections",
        "release_role",
        "flush_notifications",
        "save_model_state",
        "end_loops",
        "deregister",
        "close_server",
    ]
    assert [step.name for step in steps if step.skippable] == [
        "hand_over",
        "drain",
        "flush_notifications",
        "save_model_state",
    ]
    assert all(step.timeout > 0 for step in steps)


async def test_a_deregistration_that_consul_does_not_answer_is_retried() -> None:
    publisher, clock = Publisher(failing=2), VirtualClock()
    work = asyncio.ensure_future(_deregister(publisher, clock).run())
    await clock.advance(10.0)
    assert work.done()
    assert publisher.calls == 3


async def test_an_entry_in_an_operators_maintenance_stays_registered() -> None:
    publisher = Publisher()
    publisher.keeps_entry = True
    await _deregister(publisher, VirtualClock()).run()
    assert publisher.calls == 0


def _deregister(publisher: Publisher, clock: VirtualClock) -> Step:
    (step,) = (step for step in shutdown(publisher, clock).steps(()) if step.name == "deregister")
    return step
