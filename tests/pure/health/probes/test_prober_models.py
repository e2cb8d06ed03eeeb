"""The probing loops: what a model answers, late, wrong or not at all."""

from dataclasses import replace

import numpy as np
import pytest

from sidecar.events import CanaryCached, CanaryDerived, RequestFailed
from sidecar.health.canary.expectations import Equals
from sidecar.runtime.errors import (
    AnswerTooLarge,
    DeadlineExceeded,
    NotAdmitted,
    Overloaded,
    Refused,
    Rejected,
    Unavailable,
)
from sidecar.triton.api import (
    Answer,
    InferenceRequest,
    ModelDescription,
    Statistics,
    Tensor,
    TensorSpec,
)
from sidecar.verdict.evidence import Layer, Reason
from sidecar.verdict.verdict_line import State
from tests.support.prober_bench import (
    SETTINGS,
    TEXT,
    canary,
    demanding,
    load_anew,
    model,
    probing,
    says,
)

FULL = Overloaded("UNAVAILABLE: Exceeds maximum queue size")


async def test_an_error_one_time_in_three_is_seen() -> None:
    async with probing() as bench:
        await bench.pass_(2)

        def flaky() -> None:
            bench.chat.error = Rejected("INTERNAL: no") if len(bench.chat.asked) % 3 == 0 else None

        await bench.pass_(10, flaky)
        assert "critical CANARY_FAILED" in bench.said
        assert bench.said.count("passing OK") == 1


async def test_a_hung_model_is_a_warning_first_and_critical_after_the_stall_window() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.hung = True
        await bench.pass_(5)
        assert bench.said[-1] == "warning CANARY_LATE"
        await bench.pass_(4)
        assert bench.said[1:] == ["warning CANARY_LATE", "critical MODEL_HUNG"]
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
        assert bench.said[1:] == ["warning MODEL_BUSY"]
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
        assert bench.said == ["passing OK", "warning MODEL_BUSY"]


async def test_a_stream_that_moves_is_progress() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.delay = 12.0
        await bench.pass_(13, lambda: bench.chat.count(responses=1))
        assert not any(said.startswith("critical") for said in bench.said)


async def test_a_refused_queue_is_busy_while_others_are_served() -> None:
    async with probing() as bench:
        await bench.pass_(2, lambda: bench.chat.count(successes=1, executions=1))
        bench.chat.error = FULL
        await bench.pass_(15, lambda: bench.chat.count(successes=1, executions=1))
        assert bench.said[1:] == ["warning MODEL_BUSY"]


async def test_a_queue_is_full_before_anybody_has_finished() -> None:
    """The first requests of clients to a standby that was idle, each of four seconds."""
    async with probing() as bench:
        await bench.pass_(20)
        bench.chat.error, bench.chat.counts_errors = FULL, False
        for _ in range(10):
            await bench.pass_(4)
            bench.chat.count(successes=1, executions=1)
        assert bench.said == ["passing OK", "warning MODEL_BUSY"]


async def test_a_hung_model_with_a_full_queue_is_hung() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.error, bench.chat.counts_errors = FULL, False
        await bench.pass_(12)
        assert bench.said[1:] == ["warning MODEL_BUSY", "critical MODEL_HUNG"]
        bench.chat.error = None
        await bench.pass_(5)
        assert bench.verdict.state is State.PASSING


async def test_a_full_queue_of_which_nothing_is_told_is_not_excused_for_ever() -> None:
    async with probing() as bench:
        bench.triton.statistics_error = Rejected("UNIMPLEMENTED: no")
        await bench.pass_(10)
        bench.chat.error = FULL
        await bench.pass_(4)
        assert bench.said == ["passing OK", "warning MODEL_BUSY"]
        await bench.pass_(4)
        assert bench.verdict.reason is Reason.CANARY_UNANSWERED


async def test_others_that_finished_since_the_last_look_excuse_a_refusal() -> None:
    """The statistics are read anew before a refusal that names no queue is held against a model."""
    rarely = SETTINGS.model_copy(update={"statistics_interval": 30.0})
    async with probing(settings=rarely) as bench:
        await bench.pass_(35)
        bench.chat.error = Unavailable("UNAVAILABLE: try again later")
        await bench.pass_(5, lambda: bench.chat.count(successes=1, executions=1))
        assert bench.said == ["passing OK", "warning MODEL_BUSY"]


async def test_missing_statistics_eject_nobody_and_are_told() -> None:
    async with probing() as bench:
        bench.triton.statistics_error = Rejected("UNIMPLEMENTED: no")
        await bench.pass_(10)
        assert bench.said == ["passing OK"]
        assert Reason.STATISTICS_UNAVAILABLE in {each.reason for each in bench.evidence}
        bench.chat.hung = True
        await bench.pass_(5)
        assert bench.verdict.state is State.WARNING
        await bench.pass_(5)
        assert bench.verdict.reason is Reason.CANARY_UNANSWERED


async def test_statistics_that_are_refused_eject_nobody_and_say_what_to_set() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        refusal = NotAdmitted("This protocol is restricted: expected triton.headers to admit us")
        bench.triton.statistics_error = refusal
        await bench.pass_(5)
        assert bench.said == ["passing OK"]
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
        assert not any(said.startswith("critical") for said in bench.said)


async def test_a_hung_model_is_never_served_however_long_it_hangs() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.hung = True
        await bench.pass_(200)
        assert bench.said == ["passing OK", "warning CANARY_LATE", "critical MODEL_HUNG"]
        bench.chat.hung = False
        await bench.pass_(15)
        assert bench.verdict.state is State.PASSING


async def test_what_is_only_late_says_nothing_before_the_first_proof() -> None:
    """The sidecar was started again, and its Triton, which is busy, served all the time."""
    async with probing() as bench:
        bench.chat.hung = True
        await bench.pass_(4)
        assert bench.verdict.unproven
        assert "CANARY_LATE" in bench.verdict.detail
        await bench.pass_(60)
        assert bench.said == ["starting MODEL_HUNG", "critical MODEL_HUNG"]


async def test_a_model_that_hangs_from_the_start_is_never_served() -> None:
    broken = model()
    broken.hung = True
    async with probing(broken) as bench:
        await bench.pass_(100)
        assert {said.split()[0] for said in bench.said} <= {"starting", "critical"}


async def test_requests_that_are_refused_are_no_sign_of_life() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.hung = True
        await bench.pass_(10, lambda: bench.chat.count(failures=1))
        assert bench.verdict.reason is Reason.MODEL_HUNG


async def test_a_model_loaded_anew_in_place_is_asked_anew() -> None:
    async with probing(canaries={}) as bench:
        await bench.pass_(5)
        bench.chat.description = replace(
            bench.chat.description, versions=("2",), outputs=(replace(TEXT, name="other"),)
        )
        bench.chat.statistics = Statistics("chat", "2")
        bench.chat.reply = Answer({"other": says("right").outputs["text"]})
        await bench.pass_(8)
        assert bench.prober.identity.value.models[0].versions == ("2",)
        assert bench.verdict.state is State.PASSING


async def test_what_a_model_said_before_it_was_loaded_anew_is_expected_no_more() -> None:
    numbers = TensorSpec("score", "FP32", (2,))
    score = model(outputs=(numbers,))
    score.reply = Answer({"score": Tensor("FP32", np.array([1.0, 2.0], np.float32))})
    async with probing(score, canaries={}) as bench:
        await bench.pass_(5)
        score.reply = Answer({"score": Tensor("FP32", np.array([3.0, 4.0], np.float32))})
        score.statistics = Statistics("chat", "1")
        await bench.pass_(10)
        assert bench.said == ["passing OK"]


LONGER = (replace(TEXT, shape=(2,)),)


async def test_a_canary_that_waits_for_its_turn_is_made_for_the_model_as_it_is_then() -> None:
    """Two models share a canary every two seconds, and one is another by the time of its turn."""
    slowly = SETTINGS.model_copy(update={"canary_rate": 0.25, "canary_interval": 8.0})
    both = demanding(model("chat")), model("embed")
    async with probing(*both, canaries={}, settings=slowly) as bench:
        await bench.pass_(30)
        assert bench.verdict.state is State.PASSING
        for number in range(6):
            load_anew(bench.chat, inputs=LONGER if number % 2 == 0 else (TEXT,))
            await bench.pass_(9.1)
        shapes = {each.steps[0]["text"].array.shape for each in bench.chat.asked}
        assert shapes == {(1,), (2,)}
        assert set(bench.found()) == {Reason.OK}


async def test_a_derived_canary_that_does_not_fit_any_more_says_nothing_of_the_model() -> None:
    async with probing(demanding(model()), canaries={}) as bench:
        await bench.pass_(5)
        for inputs in (LONGER, (TEXT,), LONGER):
            load_anew(bench.chat, inputs=inputs)
            await bench.pass_(3.2)
        assert bench.said == ["passing OK"]
        assert set(bench.found()) == {Reason.OK}


async def test_a_model_that_fails_as_it_is_loaded_now_is_found_out() -> None:
    async with probing(demanding(model()), canaries={}) as bench:
        await bench.pass_(5)
        load_anew(bench.chat, versions=("2",))
        bench.chat.error = Rejected("INTERNAL: no")
        await bench.pass_(3)
        assert bench.verdict.reason is Reason.CANARY_FAILED


async def test_a_canary_is_held_against_the_model_as_it_is_loaded() -> None:
    """What does not fit is a mistake in the configuration, and not a model that fails."""
    async with probing(demanding(model())) as bench:
        await bench.pass_(3)
        load_anew(bench.chat, inputs=LONGER)
        await bench.pass_(3)
        assert bench.verdict.reason is Reason.CONFIG
        assert set(bench.found()) == {Reason.OK, Reason.CONFIG}
        load_anew(bench.chat, inputs=(TEXT,))
        found = len(bench.found())
        await bench.pass_(5)
        assert bench.verdict.state is State.PASSING
        assert set(bench.found()[found:]) == {Reason.OK}


@pytest.mark.parametrize("delay", [3.2, 3.4, 3.7, 3.9])
async def test_what_was_learnt_of_a_model_is_not_expected_of_the_one_that_answers(
    delay: float,
) -> None:
    numbers = TensorSpec("score", "FP32", (2,))
    score = model(outputs=(numbers,))
    score.reply = Answer({"score": Tensor("FP32", np.array([1.0, 2.0], np.float32))})
    score.delay = delay
    async with probing(score, canaries={}) as bench:
        await bench.pass_(15)
        assert bench.verdict.state is State.PASSING
        while not score.in_flight:
            await bench.pass_(0.1)
        score.reply = Answer({"score": Tensor("FP32", np.array([3.0, 4.0], np.float32))})
        load_anew(score)
        await bench.pass_(15)
        assert Reason.CANARY_WRONG_ANSWER not in bench.found()


async def test_what_cannot_be_described_for_a_moment_is_described_at_the_next_look() -> None:
    async with probing() as bench:
        await bench.pass_(5)
        describe = bench.triton.describe
        failed: list[float] = []

        async def once(model: str, timeout: float) -> ModelDescription:
            if not failed:
                failed.append(bench.clock.now())
                raise Unavailable("UNAVAILABLE: no")
            return await describe(model, timeout)

        bench.triton.describe = once  # type: ignore[method-assign]
        load_anew(bench.chat, versions=("2",))
        await bench.pass_(4)
        assert failed
        assert bench.prober.identity.value.models[0].versions == ("2",)


async def test_a_model_that_cannot_be_described_is_not_served_whatever_it_answers() -> None:
    async with probing() as bench:
        await bench.pass_(5)

        async def never(model: str, timeout: float) -> ModelDescription:
            raise Rejected("INTERNAL: no")

        bench.triton.describe = never  # type: ignore[method-assign]
        bench.chat.reply = says("nonsense")
        before = bench.sent()
        await bench.pass_(5)
        assert bench.verdict.reason is Reason.MODEL_UNANSWERED
        assert bench.sent() - before < 10


async def test_every_canary_can_be_asked_at_once_as_it_is_loaded() -> None:
    async with probing(model("chat"), model("embed"), canaries={"chat": canary()}) as bench:
        await bench.pass_(3)
        chat, embed = await bench.prober.examine()
        assert (chat.finding.ok, chat.derived, embed.finding.ok, embed.derived) == (
            *(True, False),
            *(True, True),
        )
        bench.prober.configure([canary(expectations=(Equals("text", ("left",)),))], SETTINGS.rules)
        assert (await bench.prober.examine())[0].finding.reason is Reason.CANARY_WRONG_ANSWER


async def test_an_answer_that_says_deadline_is_an_error_and_not_late() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.error = DeadlineExceeded("no answer in time")
        await bench.pass_(3)
        assert bench.verdict.reason is Reason.CANARY_FAILED


async def test_a_canary_alone_does_not_make_a_model_busy() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.counts_early = True
        bench.chat.delay = 4.0
        await bench.pass_(4)
        assert bench.said[1:] == ["warning CANARY_LATE"]


async def test_a_model_that_is_down_is_asked_at_the_usual_pace() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.error = Rejected("INTERNAL: no")
        await bench.pass_(5)
        before = bench.sent()
        await bench.pass_(60)
        assert bench.sent() - before <= 61


@pytest.mark.parametrize("clients", [0, 1])
async def test_an_answer_that_is_right_but_always_late_is_served_with_a_warning(
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


async def test_a_look_that_is_missed_now_and_then_hides_no_hung_model() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.hung = True
        for _ in range(8):
            bench.triton.frozen = True
            await bench.pass_(1.1)
            bench.triton.frozen = False
            await bench.pass_(1.9)
        assert bench.verdict.reason is Reason.MODEL_HUNG


async def test_a_full_queue_is_busy_also_while_a_long_batch_runs() -> None:
    async with probing() as bench:
        await bench.pass_(3, lambda: bench.chat.count(successes=1, executions=1))
        bench.chat.error = FULL
        before = bench.sent()
        for _ in range(5):
            await bench.pass_(3.5)
            bench.chat.count(successes=8, executions=1)
        assert not any(said.startswith("critical") for said in bench.said)
        assert bench.sent() - before < 60


async def test_slots_that_silent_clients_hold_are_no_hang_until_they_would_have_lost_them() -> None:
    async with probing(model(stateful=True, sequence_idle=30.0)) as bench:
        await bench.pass_(3)
        bench.chat.count(successes=2, executions=2)
        bench.chat.hung = True
        await bench.pass_(33)
        assert Reason.MODEL_BUSY in bench.found()
        assert not any(said.startswith("critical") for said in bench.said)
        await bench.pass_(8)
        assert bench.verdict.reason is Reason.MODEL_HUNG


@pytest.mark.parametrize("before", [0, 7])
async def test_slots_that_nobody_can_hold_excuse_no_hang(before: int) -> None:
    """Whoever held one before the last canary that was answered left that one free."""
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


async def test_a_derived_canary_is_told_as_such_also_while_it_is_late() -> None:
    async with probing(canaries={}) as bench:
        await bench.pass_(2)
        bench.chat.hung = True
        await bench.pass_(20)
        [found] = [each for each in bench.evidence if each.layer is Layer.CANARY]
        assert (found.reason, found.remark) == (Reason.MODEL_HUNG, "derived canary")


async def test_a_model_that_is_unloaded_is_not_ready() -> None:
    async with probing(model("chat"), model("embed")) as bench:
        await bench.pass_(2)
        bench.chat.ready = False
        await bench.pass_(3)
        assert (
            bench.verdict.summary
            == "CRITICAL MODEL_NOT_READY: chat: Triton reports that it is not ready"
        )
        assert bench.verdict.models == {"embed"}


async def test_another_version_than_expected_is_named() -> None:
    async with probing(canaries={"chat": canary(version="3")}) as bench:
        await bench.pass_(2)
        assert bench.verdict.summary == (
            "STARTING MODEL_WRONG_VERSION: chat: expected version 3, loaded is 1"
        )


async def test_a_canary_that_does_not_fit_is_a_mistake_in_the_configuration() -> None:
    misfit = canary(steps=({"prompt": says("?").outputs["text"]},))
    async with probing(canaries={"chat": misfit}) as bench:
        await bench.pass_(2)
        assert bench.verdict.summary.startswith("STARTING CONFIG: chat: ")
        assert "prompt" in bench.verdict.detail
        bench.prober.configure([canary()], SETTINGS.rules)
        await bench.pass_(3)
        assert bench.verdict.state is State.PASSING


async def test_without_a_canary_one_is_derived() -> None:
    async with probing(canaries={}) as bench:
        await bench.pass_(2)
        assert bench.verdict.state is State.PASSING
        derived = [event for event in bench.events if isinstance(event, CanaryDerived)]
        assert [event.model for event in derived] == ["chat"]
        assert "canary record chat" in derived[0].advice


SCORE = TensorSpec("score", "FP32", (1,))
MATRIX = Answer({"score": Tensor("FP32", np.array([[1.0]], np.float32))})
VECTOR = Answer({"score": Tensor("FP32", np.array([1.0], np.float32))})


async def test_what_was_derived_and_never_passed_warns_and_condemns_nobody() -> None:
    score = model(outputs=(SCORE,))
    score.reply = MATRIX
    async with probing(score, canaries={}) as bench:
        await bench.pass_(100)
        assert bench.said == ["warning CANARY_NEVER_PASSED"]
        assert "expected [1], got [1, 1]" in bench.verdict.detail
        assert bench.verdict.serving
        (examined,) = await bench.prober.examine()
        assert examined.finding.reason is Reason.CANARY_NEVER_PASSED
        score.reply = VECTOR
        await bench.pass_(10)
        assert bench.verdict.state is State.PASSING
        score.reply = MATRIX
        await bench.pass_(3)
        assert bench.verdict.reason is Reason.CANARY_WRONG_ANSWER
        (examined,) = await bench.prober.examine()
        assert examined.finding.reason is Reason.CANARY_WRONG_ANSWER


async def test_a_model_that_answered_in_another_form_and_then_fails_is_found_out() -> None:
    score = model(outputs=(SCORE,))
    score.reply = MATRIX
    async with probing(score, canaries={}) as bench:
        await bench.pass_(5)
        score.error = Rejected("INTERNAL: the stub is dead")
        await bench.pass_(3)
        assert bench.said[-1] == "critical CANARY_FAILED"
        score.error, score.hung = None, True
        await bench.pass_(100)
        assert bench.said[-1] == "critical MODEL_HUNG"


async def test_what_a_model_refuses_from_the_beginning_may_be_the_question() -> None:
    async with probing(canaries={}) as bench:
        bench.chat.error = Rejected("INTERNAL: expected a parameter")
        await bench.pass_(100)
        assert bench.said == ["warning CANARY_NEVER_PASSED"]


async def test_a_derived_canary_that_is_never_answered_proves_nothing_for_or_against() -> None:
    broken = model()
    broken.hung = True
    async with probing(broken, canaries={}) as bench:
        await bench.pass_(100)
        assert Reason.MODEL_HUNG not in bench.found()
        assert not any(said.startswith(("passing", "warning")) for said in bench.said)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"versions": ("2",)}, Reason.CANARY_WRONG_ANSWER),
        ({"config": b"instance_group"}, Reason.CANARY_WRONG_ANSWER),
        ({"inputs": (TEXT, replace(TEXT, name="more"))}, Reason.CANARY_NEVER_PASSED),
        ({"outputs": (replace(SCORE, shape=(2,)),)}, Reason.CANARY_NEVER_PASSED),
    ],
)
async def test_what_has_passed_once_condemns_also_what_is_loaded_anew_in_the_same_form(
    changes: dict[str, object], reason: Reason
) -> None:
    score = model(outputs=(SCORE,))
    score.reply = VECTOR
    async with probing(score, canaries={}) as bench:
        await bench.pass_(5)
        assert bench.said == ["passing OK"]
        load_anew(score, **changes)
        score.reply = MATRIX
        await bench.pass_(5)
        assert bench.verdict.reason is reason


@pytest.mark.parametrize("passed", [True, False])
async def test_a_sidecar_that_is_started_anew_knows_what_has_passed_before(passed: bool) -> None:
    score = model(outputs=(SCORE,))
    score.reply = VECTOR if passed else MATRIX
    async with probing(score, canaries={}) as bench:
        await bench.pass_(5)
        proven = bench.prober.proven
    score.reply = MATRIX
    async with probing(score, canaries={}, proven=proven) as bench:
        await bench.pass_(100)
        found = Reason.CANARY_WRONG_ANSWER if passed else Reason.CANARY_NEVER_PASSED
        assert bench.verdict.reason is found
        assert bench.prober.proven == proven


async def test_a_derived_canary_expects_what_two_answers_agreed_in() -> None:
    numbers = TensorSpec("score", "FP32", (2,))
    score = model(outputs=(numbers,))
    score.reply = Answer({"score": Tensor("FP32", np.array([1.0, 2.0], np.float32))})
    async with probing(score, canaries={}) as bench:
        await bench.pass_(3)
        assert bench.verdict.state is State.PASSING
        score.reply = Answer({"score": Tensor("FP32", np.array([1.0, 9.0], np.float32))})
        await bench.pass_(2)
        assert bench.verdict.reason is Reason.CANARY_WRONG_ANSWER


async def test_a_huge_answer_is_not_the_server_s_fault_only_once() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.chat.error = AnswerTooLarge("too large")
        await bench.pass_(3)
        assert bench.verdict.reason is Reason.CANARY_TOO_LARGE


async def test_traffic_that_succeeds_makes_canaries_rarer_but_not_rare() -> None:
    async with probing() as bench:
        await bench.pass_(5)
        idle = bench.sent()
        await bench.pass_(60)
        alone = bench.sent() - idle
        await bench.pass_(60, lambda: bench.chat.count(successes=3, executions=3))
        beside_traffic = bench.sent() - idle - alone
        assert 25 <= beside_traffic <= 35 < 55 <= alone <= 65


async def test_traffic_that_fails_hurries_the_canary() -> None:
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
        assert bench.said == ["passing OK", "critical CANARY_FAILED", "passing OK"]


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


@pytest.mark.parametrize("refuses", [True, False])
async def test_a_model_is_not_held_to_a_question_that_it_never_answered(refuses: bool) -> None:
    """It is particular about its input, and answers from the cache are told as such."""

    def particular(question: InferenceRequest) -> Answer:
        if question.steps[0]["text"].array[0] == b"?":
            return says("right")
        if refuses:
            raise Rejected("INTERNAL: KeyError")
        return says("something else")

    async with probing(model(cached=True)) as bench:
        bench.chat.reply = particular
        await bench.pass_(30)
        assert bench.said == ["passing OK"]
        told = [event.model for event in bench.events if isinstance(event, CanaryCached)]
        assert told == (["chat"] if refuses else [])
        [found] = [each for each in bench.evidence if each.layer is Layer.CANARY]
        assert ("response cache" in found.remark) is refuses


async def test_answers_from_the_cache_are_no_sign_of_life() -> None:
    async with probing(model(cached=True)) as bench:
        await bench.pass_(5)
        bench.chat.hung = True
        await bench.pass_(12, lambda: bench.chat.count(successes=1, cached=1))
        assert bench.verdict.reason is Reason.MODEL_HUNG
