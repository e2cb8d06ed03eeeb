"""The prober distinguishes a busy model from a hung one: queues, counters, statistics."""

from dataclasses import replace

import pytest

from sidecar.events import RequestFailed
from sidecar.runtime.errors import (
    NotAdmitted,
    Overloaded,
    Rejected,
    Unavailable,
)
from sidecar.triton.api import Statistics
from sidecar.verdict.evidence import Layer, Reason
from sidecar.verdict.verdict_line import State
from tests.support.prober_bench import (
    SETTINGS,
    canary,
    model,
    probing,
)

FULL = Overloaded("UNAVAILABLE: Exceeds maximum queue size")


async def test_a_hung_model_is_a_warning_first_and_critical_after_the_stall_window() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.hung = True
        await bench.pass_(5)
        assert bench.verdicts[-1] == "warning CANARY_LATE"
        await bench.pass_(4)
        assert bench.verdicts[1:] == ["warning CANARY_LATE", "critical MODEL_HUNG"]
        assert bench.chat.in_flight == 1
        await bench.pass_(60)
        assert bench.chat.in_flight <= 1
        assert bench.verdict.reason is Reason.MODEL_HUNG
        bench.chat.hung = False
        await bench.pass_(40)
        assert bench.verdict.state is State.PASSING


async def test_a_busy_model_is_never_more_than_a_warning_however_late_its_canary() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.delay = 18.0
        await bench.pass_(60, lambda: bench.chat.count(successes=1, executions=1))
        assert bench.verdicts[1:] == ["warning MODEL_BUSY"]
        assert bench.verdict.weight < 50
        bench.chat.delay = 0.0
        await bench.pass_(30, lambda: bench.chat.count(successes=1, executions=1))
        assert bench.verdict.state is State.PASSING


async def test_a_busy_model_is_not_stale_however_long_its_canary_waits() -> None:
    async with probing() as bench:
        await bench.pass_(5)
        bench.chat.delay = 1e6

        def others() -> None:
            bench.chat.count(successes=1, executions=1)

        await bench.pass_(900, others)
        assert bench.verdicts == ["passing OK", "warning MODEL_BUSY"]


async def test_a_stream_that_makes_progress_is_progress() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.delay = 12.0
        await bench.pass_(13, lambda: bench.chat.count(responses=1))
        assert not any(said.startswith("critical") for said in bench.verdicts)


async def test_a_full_queue_is_busy_while_other_requests_are_served() -> None:
    async with probing() as bench:
        await bench.pass_(2, lambda: bench.chat.count(successes=1, executions=1))
        bench.chat.error = FULL
        await bench.pass_(15, lambda: bench.chat.count(successes=1, executions=1))
        assert bench.verdicts[1:] == ["warning MODEL_BUSY"]


async def test_a_queue_may_be_full_before_the_first_request_has_finished() -> None:
    """The first client requests to an idle standby, each of which takes four seconds."""
    async with probing() as bench:
        await bench.pass_(20)
        bench.chat.error, bench.chat.counts_errors = FULL, False
        for _ in range(10):
            await bench.pass_(4)
            bench.chat.count(successes=1, executions=1)
        assert bench.verdicts == ["passing OK", "warning MODEL_BUSY"]


async def test_a_hung_model_with_a_full_queue_is_hung() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.error, bench.chat.counts_errors = FULL, False
        await bench.pass_(12)
        assert bench.verdicts[1:] == ["warning MODEL_BUSY", "critical MODEL_HUNG"]
        bench.chat.error = None
        await bench.pass_(5)
        assert bench.verdict.state is State.PASSING


async def test_a_full_queue_without_statistics_is_excused_only_for_a_while() -> None:
    async with probing() as bench:
        bench.triton.statistics_error = Rejected("UNIMPLEMENTED: no")
        await bench.pass_(10)
        bench.chat.error = FULL
        await bench.pass_(4)
        assert bench.verdicts == ["passing OK", "warning MODEL_BUSY"]
        await bench.pass_(4)
        assert bench.verdict.reason is Reason.CANARY_UNANSWERED


async def test_requests_that_finished_since_the_last_read_excuse_a_refusal() -> None:
    """The statistics are read again before a refusal that names no queue counts against a model."""
    rarely = SETTINGS.model_copy(update={"statistics_interval": 30.0})
    async with probing(settings=rarely) as bench:
        await bench.pass_(35)
        bench.chat.error = Unavailable("UNAVAILABLE: try again later")
        await bench.pass_(5, lambda: bench.chat.count(successes=1, executions=1))
        assert bench.verdicts == ["passing OK", "warning MODEL_BUSY"]


async def test_missing_statistics_eject_no_instance_and_are_reported() -> None:
    async with probing() as bench:
        bench.triton.statistics_error = Rejected("UNIMPLEMENTED: no")
        await bench.pass_(10)
        assert bench.verdicts == ["passing OK"]
        assert Reason.STATISTICS_UNAVAILABLE in {each.reason for each in bench.evidence}
        bench.chat.hung = True
        await bench.pass_(5)
        assert bench.verdict.state is State.WARNING
        await bench.pass_(5)
        assert bench.verdict.reason is Reason.CANARY_UNANSWERED


async def test_refused_statistics_eject_no_instance_and_name_the_setting() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        refusal = NotAdmitted("This protocol is restricted: expected triton.headers to admit us")
        bench.triton.statistics_error = refusal
        await bench.pass_(5)
        assert bench.verdicts == ["passing OK"]
        [found] = [each for each in bench.evidence if each.layer is Layer.PROGRESS]
        assert (found.reason, found.remark) == (Reason.STATISTICS_UNAVAILABLE, str(refusal))
        assert RequestFailed("triton", "statistics", refusal) in bench.events


async def test_statistics_that_are_missing_for_a_moment_eject_no_busy_server() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.delay = 30.0

        def work() -> None:
            bench.chat.count(successes=1, executions=1)

        await bench.pass_(15, work)
        bench.triton.statistics_error = Unavailable("UNAVAILABLE: no")
        await bench.pass_(1.5, work)
        bench.triton.statistics_error = None
        await bench.pass_(20, work)
        assert not any(said.startswith("critical") for said in bench.verdicts)


async def test_a_hung_model_is_never_served_however_long_it_hangs() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.hung = True
        await bench.pass_(200)
        assert bench.verdicts == ["passing OK", "warning CANARY_LATE", "critical MODEL_HUNG"]
        bench.chat.hung = False
        await bench.pass_(15)
        assert bench.verdict.state is State.PASSING


async def test_a_late_canary_is_no_evidence_before_the_first_proof() -> None:
    """The sidecar was restarted; its Triton, which is busy, has served all the time."""
    async with probing() as bench:
        bench.chat.hung = True
        await bench.pass_(4)
        assert bench.verdict.unproven
        assert "CANARY_LATE" in bench.verdict.detail
        await bench.pass_(60)
        assert bench.verdicts == ["starting MODEL_HUNG", "critical MODEL_HUNG"]


async def test_a_model_that_hangs_from_the_start_is_never_served() -> None:
    broken = model()
    broken.hung = True
    async with probing(broken) as bench:
        await bench.pass_(100)
        assert {said.split()[0] for said in bench.verdicts} <= {"starting", "critical"}


async def test_refused_requests_are_not_progress() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.hung = True
        await bench.pass_(10, lambda: bench.chat.count(failures=1))
        assert bench.verdict.reason is Reason.MODEL_HUNG


async def test_a_canary_alone_does_not_make_a_model_busy() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.counts_early = True
        bench.chat.delay = 4.0
        await bench.pass_(4)
        assert bench.verdicts[1:] == ["warning CANARY_LATE"]


async def test_a_statistics_read_that_fails_now_and_then_hides_no_hung_model() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.hung = True
        for _ in range(8):
            bench.triton.frozen = True
            await bench.pass_(1.1)
            bench.triton.frozen = False
            await bench.pass_(1.9)
        assert bench.verdict.reason is Reason.MODEL_HUNG


async def test_a_full_queue_is_busy_while_a_long_batch_runs() -> None:
    async with probing() as bench:
        await bench.pass_(3, lambda: bench.chat.count(successes=1, executions=1))
        bench.chat.error = FULL
        before = bench.sent()
        for _ in range(5):
            await bench.pass_(3.5)
            bench.chat.count(successes=8, executions=1)
        assert not any(said.startswith("critical") for said in bench.verdicts)
        assert bench.sent() - before < 60


async def test_slots_held_by_silent_clients_are_not_a_hang_until_the_idle_timeout() -> None:
    async with probing(model(stateful=True, sequence_idle=30.0)) as bench:
        await bench.pass_(3)
        bench.chat.count(successes=2, executions=2)
        bench.chat.hung = True
        await bench.pass_(33)
        assert Reason.MODEL_BUSY in bench.found()
        assert not any(said.startswith("critical") for said in bench.verdicts)
        await bench.pass_(8)
        assert bench.verdict.reason is Reason.MODEL_HUNG


@pytest.mark.parametrize("before", [0, 7])
async def test_slots_that_no_client_can_hold_do_not_excuse_a_hang(before: int) -> None:
    """A client that held one before the last answered canary left that slot free."""
    async with probing(model(stateful=True, sequence_idle=3600.0)) as bench:
        await bench.pass_(3)
        bench.chat.count(successes=before, executions=before)
        await bench.pass_(5)
        bench.chat.hung = True
        await bench.pass_(9)
        assert bench.verdict.reason is Reason.MODEL_HUNG


async def test_another_version_that_works_hides_no_hung_one() -> None:
    both = model(versions=("1", "2"))
    async with probing(both, canaries={"chat": canary(version="1")}) as bench:
        bench.triton.others = (Statistics("chat", "2"),)
        both.statistics = Statistics("chat", "1")
        await bench.pass_(2)
        both.hung = True

        def clients_of_2() -> None:
            [other] = bench.triton.others
            bench.triton.others = (
                replace(other, successes=other.successes + 1, executions=other.executions + 1),
            )

        await bench.pass_(15, clients_of_2)
        assert bench.verdict.reason is Reason.MODEL_HUNG
