"""Which connections are reset when an instance is withdrawn, on a manual clock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sidecar.events import ConnectionsReset, Event, StepDone
from sidecar.registry.rules import DrainRules
from sidecar.registry.withdrawal import CUT, Withdrawal
from sidecar.runtime.errors import DeadlineExceeded, Rejected, SidecarError
from sidecar.runtime.latest import Latest
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State
from tests.support.virtual_clock import VirtualClock, settle

PASSING = Verdict(State.PASSING, Reason.OK)
WARNING = Verdict(State.WARNING, Reason.TRAFFIC_SLOW)
CRITICAL = Verdict(State.CRITICAL, Reason.MODEL_HUNG)
WORSE = Verdict(State.CRITICAL, Reason.GPU_LOST)
MAINTENANCE = Verdict(State.MAINTENANCE, Reason.MAINTENANCE)
DRAINING = Verdict(State.DRAINING, Reason.OK)


class Stage:
    """An instance with requests in flight, which end when `finish` is called."""

    def __init__(self, cut: bool, hung_after: float | None) -> None:
        self.clock = VirtualClock()
        self.verdict = Latest(Verdict(State.STARTING, Reason.OK))
        self.finish = asyncio.Event()
        self.events: list[Event] = []
        self.cuts = 0
        self.broken: SidecarError | None = None
        settings = DrainRules(timeout=30.0, cut=cut, cut_hung_after=hung_after)
        self.withdrawal = Withdrawal(
            settings, self._idle, self._cut, self.clock, self.events.append
        )

    async def _idle(self) -> None:
        await self.finish.wait()

    async def _cut(self) -> int:
        if self.broken:
            raise self.broken
        self.cuts += 1
        return 3

    async def becomes(self, *verdicts: Verdict, seconds: float = 0.0) -> None:
        for verdict in verdicts:
            self.verdict.set(verdict)
            await settle()
        await self.clock.advance(seconds)


@asynccontextmanager
async def stage(cut: bool = True, hung_after: float | None = None) -> AsyncIterator[Stage]:
    made = Stage(cut, hung_after)
    loop = asyncio.create_task(made.withdrawal.watch(made.verdict))
    await settle()
    try:
        yield made
        assert not loop.done()
    finally:
        loop.cancel()
        await asyncio.wait((loop,))


@pytest.mark.parametrize("withdrawn", [CRITICAL, MAINTENANCE])
async def test_requests_that_outlive_a_withdrawal_are_cut_once(withdrawn: Verdict) -> None:
    async with stage() as it:
        await it.becomes(PASSING, WARNING, withdrawn, seconds=29.0)
        assert it.cuts == 0
        await it.becomes(WORSE, seconds=2.0)  # the deadline does not move
        assert (it.cuts, it.events) == (1, [ConnectionsReset(3)])
        await it.becomes(withdrawn, seconds=600.0)
        assert it.cuts == 1
        await it.becomes(PASSING, withdrawn, seconds=31.0)
        assert it.cuts == 2


async def test_requests_that_finish_in_time_are_not_cut() -> None:
    async with stage() as it:
        await it.becomes(PASSING, CRITICAL, seconds=29.0)
        it.finish.set()
        await it.becomes(seconds=60.0)
        assert (it.cuts, it.events) == (0, [])


@pytest.mark.parametrize("over", [PASSING, WARNING, DRAINING])
async def test_nothing_is_cut_if_the_instance_serves_again_or_stops(over: Verdict) -> None:
    async with stage() as it:
        await it.becomes(PASSING, CRITICAL, seconds=29.0)
        await it.becomes(over, seconds=60.0)
        assert it.cuts == 0


async def test_the_time_counts_from_the_last_withdrawal() -> None:
    async with stage() as it:
        await it.becomes(PASSING, CRITICAL, seconds=29.0)
        await it.becomes(PASSING, CRITICAL, seconds=29.0)
        # Even if no reader noticed that it served in between.
        it.verdict.set(PASSING)
        await asyncio.sleep(0)
        it.verdict.set(CRITICAL)
        await it.becomes(seconds=5.0)
        assert it.cuts == 0
        await it.becomes(seconds=26.0)
        assert it.cuts == 1


async def test_nothing_is_cut_before_an_instance_has_served() -> None:
    async with stage() as it:
        await it.becomes(CRITICAL, seconds=60.0)
        assert it.cuts == 0


async def test_unless_configured_nothing_is_cut() -> None:
    async with stage(cut=False) as it:
        await it.becomes(PASSING, CRITICAL, seconds=60.0)
        assert it.cuts == 0
        it.withdrawal.rules = DrainRules(timeout=30.0, cut=True)  # a reload
        await it.becomes(PASSING, CRITICAL, seconds=31.0)
        assert it.cuts == 1


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    "reason", [Reason.MODEL_HUNG, Reason.MODEL_STUB_DIED, Reason.CANARY_UNANSWERED]
)
async def test_requests_in_flight_on_a_hung_instance_are_cut_soon(
    cut: bool, reason: Reason
) -> None:
    async with stage(cut, hung_after=2.0) as it:
        await it.becomes(PASSING, WARNING, Verdict(State.CRITICAL, reason), seconds=1.9)
        assert it.cuts == 0
        await it.becomes(seconds=0.2)
        assert (it.cuts, it.events) == (1, [ConnectionsReset(3)])
        await it.becomes(seconds=600.0)
        assert it.cuts == 1


@pytest.mark.parametrize("verdict", [WARNING, WORSE, MAINTENANCE, DRAINING])
async def test_an_instance_that_does_not_hang_keeps_its_streams(verdict: Verdict) -> None:
    async with stage(cut=False, hung_after=2.0) as it:
        await it.becomes(PASSING, verdict, seconds=600.0)
        await it.withdrawal.cut()
        assert it.cuts == 0


async def test_an_unhealthy_instance_that_hangs_later_has_its_time_from_then_on() -> None:
    async with stage(cut=False, hung_after=2.0) as it:
        await it.becomes(PASSING, WORSE, seconds=10.0)
        await it.becomes(CRITICAL, seconds=1.0)
        await it.becomes(WORSE, CRITICAL, seconds=1.5)  # it did not hang in between
        assert it.cuts == 0
        await it.becomes(seconds=1.0)
        assert it.cuts == 1


async def test_a_hang_that_ends_in_time_is_not_cut() -> None:
    async with stage(cut=True, hung_after=2.0) as it:
        await it.becomes(PASSING, CRITICAL, seconds=1.0)
        await it.becomes(PASSING, seconds=60.0)
        await it.becomes(CRITICAL, seconds=1.0)
        await it.becomes(WORSE, seconds=27.0)
        assert it.cuts == 0
        await it.becomes(seconds=3.0)
        assert it.cuts == 1


async def test_a_failed_cut_is_reported_and_does_not_end_the_watch() -> None:
    async with stage() as it:
        it.broken = Rejected("ss: Operation not permitted")
        await it.becomes(PASSING, CRITICAL, seconds=100.0)
        assert it.events == [StepDone(CUT, 30.0, "ss: Operation not permitted")]
        it.broken = None
        await it.becomes(PASSING, CRITICAL, seconds=31.0)
        assert it.cuts == 1


async def test_a_cut_that_timed_out_is_retried_while_the_instance_is_withdrawn() -> None:
    async with stage() as it:
        it.broken = DeadlineExceeded("ss: did not end within 2 s")
        await it.becomes(PASSING, CRITICAL, seconds=37.0)
        assert [each.seconds for each in it.events if isinstance(each, StepDone)] == [
            *(30.0, 32.0, 36.0)
        ]
        it.broken = None
        await it.becomes(seconds=100.0)
        assert (it.cuts, it.events[3:]) == (1, [ConnectionsReset(3)])
        it.broken = DeadlineExceeded("ss: did not end within 2 s")
        await it.becomes(PASSING, CRITICAL, seconds=31.0)
        it.broken = None
        await it.becomes(PASSING, seconds=100.0)
        assert it.cuts == 1


@pytest.mark.parametrize(
    ("finished", "cut", "cuts"), [(True, True, 0), (False, True, 1), (False, False, 0)]
)
async def test_a_stop_cuts_what_is_left_after_the_drain(
    finished: bool, cut: bool, cuts: int
) -> None:
    async with stage(cut) as it:
        await it.becomes(PASSING, DRAINING)
        if finished:
            it.finish.set()
        step = asyncio.create_task(it.withdrawal.drain())
        await settle()
        assert step.done() == finished
        step.cancel()
        await it.withdrawal.cut()
        assert it.cuts == cuts
