"""The prober's canaries: errors, late answers, how often they are sent, and the response cache."""

import pytest

from sidecar.events import CanarySent
from sidecar.runtime.errors import (
    AnswerTooLarge,
    DeadlineExceeded,
    Refused,
    Rejected,
)
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict_line import State
from tests.support.prober_bench import (
    model,
    probing,
    says,
)


async def test_an_error_in_one_of_three_answers_is_noticed() -> None:
    async with probing() as bench:
        await bench.pass_(2)

        def flaky() -> None:
            bench.chat.error = Rejected("INTERNAL: no") if len(bench.chat.asked) % 3 == 0 else None

        await bench.pass_(10, flaky)
        assert "critical CANARY_FAILED" in bench.verdicts
        assert bench.verdicts.count("passing OK") == 1


async def test_an_answer_that_mentions_a_deadline_is_an_error_and_not_late() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.error = DeadlineExceeded("no answer in time")
        await bench.pass_(3)
        assert bench.verdict.reason is Reason.CANARY_FAILED


async def test_an_unhealthy_model_is_sent_canaries_at_the_usual_interval() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.error = Rejected("INTERNAL: no")
        await bench.pass_(5)
        before = bench.sent()
        await bench.pass_(60)
        assert bench.sent() - before <= 61


@pytest.mark.parametrize("clients", [0, 1])
async def test_a_right_answer_that_is_always_late_is_served_with_a_warning(
    clients: int,
) -> None:
    slow = model()
    slow.delay = 3.0
    async with probing(slow) as bench:
        await bench.pass_(30, lambda: slow.count(successes=clients, executions=clients))
        assert bench.verdict.state is State.WARNING
        bench.triton.error = Refused("Connection refused")
        await bench.pass_(0.3)
        bench.triton.error = None
        await bench.pass_(30, lambda: slow.count(successes=clients, executions=clients))
        assert bench.verdict.state is State.WARNING


async def test_an_answer_that_is_too_large_is_excused_only_once() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.error = AnswerTooLarge("too large")
        await bench.pass_(3)
        assert bench.verdict.reason is Reason.CANARY_TOO_LARGE


@pytest.mark.parametrize(
    ("takes", "least", "most"),
    [
        pytest.param(0.0, 210, 250, id="cheap: four times as many"),
        pytest.param(0.05, 50, 65, id="5 % of the time"),
        pytest.param(0.2, 25, 35, id="expensive: half as many"),
    ],
)
async def test_canaries_while_clients_are_answered(takes: float, least: int, most: int) -> None:
    chat = model()
    chat.delay = takes
    async with probing(chat) as bench:
        await bench.pass_(10)
        idle = bench.sent()
        await bench.pass_(60)
        alone = bench.sent() - idle
        await bench.pass_(60, lambda: chat.count(successes=3, executions=3))
        with_traffic = bench.sent() - idle - alone
        assert 45 <= alone <= 65
        assert least <= with_traffic <= most


async def test_busy_models_leave_half_of_the_rate_limit_for_confirmations() -> None:
    models = [model(f"m{number}") for number in range(20)]

    def work() -> None:
        for each in models:
            each.count(successes=3, executions=3)

    async with probing(*models) as bench:
        await bench.pass_(10, work)
        before = sum(isinstance(event, CanarySent) for event in bench.events)
        await bench.pass_(60, work)
        sent = sum(isinstance(event, CanarySent) for event in bench.events) - before
        assert 500 < sent < 700  # of 1,200


async def test_a_wrong_answer_to_busy_clients_is_noticed_within_one_interval() -> None:
    async with probing() as bench:
        await bench.pass_(5, lambda: bench.chat.count(successes=3, executions=3))
        bench.chat.reply = says("wrong")
        await bench.pass_(0.6, lambda: bench.chat.count(successes=3, executions=3))
        assert bench.verdict.reason is Reason.CANARY_WRONG_ANSWER


async def test_failing_traffic_sends_the_next_canary_sooner() -> None:
    async with probing() as bench:
        await bench.pass_(5)
        before = bench.sent()
        await bench.pass_(5, lambda: bench.chat.count(failures=1, executions=1))
        assert bench.sent() - before > 25
        assert bench.verdict.reason is Reason.TRAFFIC_FAILING


async def test_canaries_have_the_lowest_priority() -> None:
    async with probing(model(priority_levels=5)) as bench:
        await bench.pass_(1)
        assert {question.priority for question in bench.chat.asked} == {5}


async def test_a_response_cache_hides_no_dead_model() -> None:
    async with probing(model(cached=True)) as bench:
        await bench.pass_(20)
        bench.chat.error = Rejected("INTERNAL: stub is dead")
        await bench.pass_(3)
        assert bench.verdict.reason is Reason.CANARY_FAILED
        bench.chat.error = None
        await bench.pass_(40)
        assert bench.verdicts == ["passing OK", "critical CANARY_FAILED", "passing OK"]


async def test_a_response_cache_hides_no_wrong_answer() -> None:
    async with probing(model(cached=True)) as bench:
        await bench.pass_(20)
        bench.chat.reply = says("nonsense")
        await bench.pass_(3)
        assert bench.verdict.reason is Reason.CANARY_WRONG_ANSWER


async def test_a_response_cache_excuses_no_model_that_was_wrong_from_the_start() -> None:
    async with probing(model(cached=True)) as bench:
        bench.chat.reply = says("nonsense")
        await bench.pass_(20)
        assert bench.verdict.reason is Reason.CANARY_WRONG_ANSWER


async def test_answers_from_the_cache_are_not_progress() -> None:
    async with probing(model(cached=True)) as bench:
        await bench.pass_(5)
        bench.chat.hung = True
        await bench.pass_(12, lambda: bench.chat.count(successes=1, cached=1))
        assert bench.verdict.reason is Reason.MODEL_HUNG
