"""The state machine between findings and the verdict."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.health.decision import (
    Override,
    assess,
    begin,
    evidence,
    forget,
    overridden,
    restarted,
)
from sidecar.health.track import TrackRules
from sidecar.v1 import health_pb2
from sidecar.verdict.evidence import SERVER, Finding, Layer, Level, Reason
from sidecar.verdict.verdict import SERVING, UNPROVEN
from sidecar.verdict.verdict_line import State
from tests.support.findings import (
    BUSY,
    GOOD,
    LATE,
    MODELS,
    PORT,
    READY,
    RULES,
    SERVER_FINE,
    SLOW,
    WRONG,
    Round,
    Run,
    canary,
    chat,
    states,
)


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([GOOD] * 2, ["starting", "passing"]),
        ([GOOD, PORT, GOOD, GOOD], ["starting"] * 3 + ["passing"]),
        ([GOOD] * 2 + [PORT] * 3, ["starting", "passing", "passing", "passing", "critical"]),
        ([GOOD] * 2 + [PORT, PORT, GOOD, PORT], ["starting"] + ["passing"] * 5),
        (
            [GOOD] * 2 + [PORT] * 3 + [GOOD] * 2,
            ["starting", "passing", "passing", "passing", "critical", "critical", "passing"],
        ),
        ([GOOD] * 2 + [BUSY] * 3, ["starting", "passing", "passing", "passing", "warning"]),
        (
            [GOOD] * 2 + [BUSY] * 3 + [GOOD] * 2,
            ["starting", "passing", "passing", "passing", "warning", "warning", "passing"],
        ),
        ([SLOW] * 2, ["starting", "warning"]),
        ([BUSY] * 9, ["starting"] * 9),
        ([GOOD] * 2 + [BUSY] * 20, ["starting"] + ["passing"] * 3 + ["warning"] * 18),
    ],
    ids=[
        "rise",
        "streak broken",
        "fall",
        "fall broken",
        "recovery",
        "warning",
        "warning over",
        "starts with a warning",
        "an unanswered canary proves nothing",
        "a warning never becomes critical",
    ],
)
def test_rise_and_fall(rounds: list[Round], expected: list[str]) -> None:
    assert states(*rounds) == expected


def test_a_repeated_wrong_answer_counts_even_with_good_ones_in_between() -> None:
    assert states(GOOD, GOOD, WRONG, GOOD, GOOD, WRONG)[-2:] == ["passing", "critical"]


def test_a_wrong_answer_long_ago_is_forgotten() -> None:
    assert states(GOOD, GOOD, WRONG, *[GOOD] * 6, WRONG)[-1] == "passing"


def test_missing_answers_count_only_in_a_row() -> None:
    assert set(states(GOOD, *[GOOD, LATE, LATE] * 10)[1:]) == {"passing"}
    assert states(GOOD, GOOD, LATE, LATE, LATE)[-1] == "critical"


def test_a_model_that_answers_wrongly_now_and_then_stays_out_of_service() -> None:
    run = Run().rounds(GOOD, GOOD, WRONG, WRONG)
    run.rounds(*[*[GOOD] * 5, WRONG] * 5)
    assert set(run.states[4:]) == {"critical"}
    assert run.rounds(*[GOOD] * 6).states[-1] == "passing"


@pytest.mark.parametrize("reason", [Reason.MODEL_HUNG, Reason.CONFIG])
def test_a_confirmed_finding_counts_at_once(reason: Reason) -> None:
    assert states(GOOD, GOOD, chat(reason))[-1] == "critical"


def test_an_unknown_layer_does_not_change_the_state() -> None:
    unknown = Finding(Layer.GPU, SERVER, Reason.GPU_UNAVAILABLE)
    silent = Finding(Layer.PROGRESS, "chat", Reason.STATISTICS_UNAVAILABLE)
    run = Run().rounds(*[(*GOOD, unknown, silent)] * 20)
    assert run.states[1:] == ["passing"] * 19
    assert {unknown, silent} <= set(evidence(run.history))


def test_an_unproven_layer_is_not_replaced_by_other_good_ones() -> None:
    assert states(*[(*SERVER_FINE, *READY, canary("chat"))] * 5)[-1] == "starting"


@pytest.mark.parametrize("silence", [LATE, BUSY, chat(Reason.CANARY_LATE)])
def test_missing_answers_do_not_clear_wrong_answers(silence: Round) -> None:
    run = Run().rounds(GOOD, GOOD, WRONG, WRONG, *[silence] * 30)
    assert run.last.state is State.CRITICAL


def test_an_unknown_finding_clears_no_fault() -> None:
    faulty = Finding(Layer.GPU, SERVER, Reason.GPU_XID, "GPU-1: Xid 79")
    gone = Finding(Layer.GPU, SERVER, Reason.GPU_UNAVAILABLE)
    run = Run().rounds(GOOD, GOOD, (faulty,), *[(gone,)] * 5)
    assert run.last.summary == "CRITICAL GPU_XID: GPU-1: Xid 79"
    run.history = forget(run.history, Layer.GPU, SERVER)
    assert run.rounds(GOOD).last.state is State.PASSING


def test_a_restarted_server_has_to_prove_everything_again() -> None:
    run = Run().rounds(GOOD, GOOD)
    run.history = restarted(run.history)
    assert run.rounds(GOOD).last.state is State.CRITICAL
    assert run.rounds(GOOD).last.state is State.PASSING


def test_alternating_errors_and_wrong_answers_are_one_cause() -> None:
    error = chat(Reason.CANARY_FAILED, "chat: INTERNAL")
    run = Run().rounds(GOOD, GOOD, *[WRONG, error] * 5)
    assert len({verdict.summary for verdict in run.verdicts[3:]}) == 1


def test_a_model_that_is_held_critical_is_not_served_by_its_own_name_either() -> None:
    run = Run(replace(RULES, hold=60.0)).rounds(GOOD, GOOD, *[LATE] * 3, GOOD, GOOD)
    assert (run.last.state, run.last.models) == (State.CRITICAL, frozenset())


def test_an_unhealthy_gpu_ejects_the_instance_and_leaves_the_models_proven() -> None:
    faulty = Finding(Layer.GPU, SERVER, Reason.GPU_XID, "GPU-1: Xid 79")
    run = Run().rounds(GOOD, GOOD, *[(*GOOD, faulty)] * 3)
    assert run.last.summary == "CRITICAL GPU_XID: GPU-1: Xid 79"
    fine = Finding(Layer.GPU, SERVER, Reason.OK)
    assert run.rounds(*[(fine,)] * 2).last.state is State.PASSING


def test_the_grace_period_ends() -> None:
    assert Run().rounds(*[PORT] * 4, step=4.0).states == ["starting"] * 2 + ["critical"] * 2


def test_an_instance_that_was_proven_has_no_grace_period() -> None:
    assert Run().rounds(GOOD, GOOD, PORT, PORT, PORT, step=0.1).states[-1] == "critical"


def test_a_failing_model_is_named_and_the_other_one_stays_up() -> None:
    verdict = Run().rounds(GOOD, GOOD, WRONG, WRONG).last
    assert verdict.models == {"embed"}
    assert verdict.summary == "CRITICAL CANARY_WRONG_ANSWER: chat: got 1"


def test_a_failing_server_takes_every_model_down() -> None:
    assert Run().rounds(GOOD, GOOD, *[PORT] * 3).last.models == frozenset()


def test_after_an_outage_of_the_server_everything_is_proven_again() -> None:
    run = Run().rounds(GOOD, GOOD, *[PORT] * 3, *[SERVER_FINE] * 5)
    assert run.last.state is State.CRITICAL
    assert run.rounds(GOOD, GOOD).last.state is State.PASSING


def test_the_outermost_failure_is_named() -> None:
    both = (*PORT, canary("chat", Reason.CANARY_UNANSWERED))
    assert Run().rounds(GOOD, GOOD, *[both] * 3).last.reason is Reason.PORT_UNREACHABLE


def test_the_detail_stays_while_the_reason_does() -> None:
    again = chat(Reason.CANARY_WRONG_ANSWER, "chat: got 2")
    run = Run().rounds(GOOD, GOOD, WRONG, WRONG, again, again)
    assert run.verdicts[-3:] == [run.last] * 3
    assert run.last.detail == "chat: got 1"


def test_an_overloaded_server_keeps_the_first_reason_for_its_warning() -> None:
    slow = chat(Reason.CANARY_SLOW)
    run = Run().rounds(GOOD, GOOD, BUSY, BUSY, BUSY, slow, BUSY, slow)
    assert [verdict.reason for verdict in run.verdicts[-4:]] == [Reason.MODEL_BUSY] * 4


def test_critical_lasts_for_its_hold_and_longer_each_time_it_comes_back() -> None:
    rules = replace(RULES, hold=5.0, max_hold=12.0, rise=1, fall=1)
    run = Run(rules)

    def seconds_down() -> int:
        run.rounds(GOOD, LATE)
        count = 0
        while run.rounds(GOOD).last.state is State.CRITICAL:
            count += 1
        return count + 1

    assert [seconds_down() for _ in range(3)] == [5, 10, 12]
    run.rounds(*[GOOD] * 13)
    assert seconds_down() == 5
    assert run.last.reason is Reason.OK


def test_a_held_state_keeps_its_cause() -> None:
    run = Run(replace(RULES, hold=20.0)).rounds(GOOD, GOOD, WRONG, WRONG, *[GOOD] * 8)
    assert run.last.summary == "CRITICAL CANARY_WRONG_ANSWER: chat: got 1"


def test_a_warning_that_is_held_does_not_delay_critical() -> None:
    rules = replace(RULES, hold=60.0)
    assert Run(rules).rounds(GOOD, GOOD, *[BUSY] * 3, WRONG, WRONG).states[-1] == "critical"


def test_the_next_late_canary_does_not_reset_the_strain_of_the_last() -> None:
    rules = replace(RULES, hold=0.0)
    overloaded = [chat(Reason.MODEL_BUSY, strain=strain) for strain in (1, 3, 11)]
    answered = chat(Reason.CANARY_SLOW, strain=11)
    run = Run(rules).rounds(GOOD, GOOD, *[*overloaded, answered] * 5)
    weights = [verdict.weight for verdict in run.verdicts[-15:]]
    assert weights == [10] * 15
    assert run.rounds(*[GOOD] * 2).last.weight == 50


def test_the_weight_drops_with_strain_at_once_and_recovers_after_the_hold() -> None:
    rules = replace(RULES, hold=3.0, weights=((1.0, 60), (4.0, 20)))
    run = Run(rules).rounds(GOOD, GOOD, *[chat(Reason.CANARY_SLOW, strain=2)] * 3)
    assert run.last.weight == 60
    assert run.rounds(chat(Reason.CANARY_SLOW, strain=5)).last.weight == 20
    eased = [chat(Reason.CANARY_SLOW, strain=2)] * 3
    assert [verdict.weight for verdict in run.rounds(*eased).verdicts[-3:]] == [20, 20, 60]


def test_draining_and_maintenance_serve_nothing_and_keep_the_fitness() -> None:
    verdict = Run().rounds(GOOD, GOOD).last
    for order, state in ((Override.DRAIN, State.DRAINING), (Override.MAINTAIN, State.MAINTENANCE)):
        found = overridden(verdict, order, "new disks")
        assert (found.state, found.serving, found.models) == (state, False, frozenset())
        assert found.fitness is State.PASSING
        assert found.summary == f"{state.upper()} {state.upper()}: new disks"
    assert overridden(verdict, Override.SERVE, "") == verdict


def test_time_alone_does_not_make_another_verdict() -> None:
    verdict = Run().rounds(GOOD, GOOD).last
    assert replace(verdict, at=99.0) == verdict


def test_nothing_is_served_before_the_first_finding() -> None:
    assert not UNPROVEN.serving
    assert not assess(begin(MODELS, 0.0), (), RULES, 0.0)[1].serving


def test_no_instance_starts_to_serve_unless_everything_is_healthy_at_once() -> None:
    """Each model has had its good findings in a row, but not both at once."""
    only_embed = (*SERVER_FINE, *READY, canary("embed"), canary("chat", Reason.CANARY_UNANSWERED))
    only_chat = (*SERVER_FINE, *READY, canary("chat"), canary("embed", Reason.CANARY_UNANSWERED))
    rounds = [only_embed, only_embed, only_chat, only_chat, GOOD, GOOD]
    assert states(*rounds) == ["starting"] * 5 + ["passing"]


def test_every_reason_has_a_sentence_and_is_in_the_protocol() -> None:
    names = {value.name for value in health_pb2.Reason.DESCRIPTOR.values}
    assert names == {"REASON_UNSPECIFIED"} | {f"REASON_{reason}" for reason in Reason}
    assert all(reason.sentence.endswith(".") for reason in Reason)
    assert Reason.OK.level is Level.OK


def on_layers(*layers: Layer) -> st.SearchStrategy[Finding]:
    bad = {
        Layer.PORT: Reason.PORT_UNREACHABLE,
        Layer.LIVE: Reason.SERVER_UNANSWERED,
        Layer.READY: Reason.SERVER_NOT_READY,
        Layer.MODEL: Reason.MODEL_NOT_READY,
        Layer.CANARY: Reason.CANARY_WRONG_ANSWER,
        Layer.GPU: Reason.GPU_XID,
        Layer.TRAFFIC: Reason.TRAFFIC_SLOW,
    }
    return st.sampled_from(layers).flatmap(
        lambda layer: st.builds(
            Finding,
            layer=st.just(layer),
            subject=st.sampled_from(
                MODELS if layer in (Layer.MODEL, Layer.CANARY, Layer.TRAFFIC) else (SERVER,)
            ),
            reason=st.sampled_from(
                [Reason.OK, Reason.OK, bad[layer]]
                + [Reason.MODEL_BUSY, Reason.MODEL_HUNG, Reason.CANARY_LATE]
                * (layer is Layer.CANARY)
            ),
            strain=st.floats(1, 20),
        )
    )


ANY = on_layers(
    Layer.PORT, Layer.LIVE, Layer.READY, Layer.MODEL, Layer.CANARY, Layer.GPU, Layer.TRAFFIC
)


@given(
    st.lists(st.one_of(st.just(GOOD), st.lists(ANY, max_size=4).map(tuple)), max_size=60),
    st.builds(
        TrackRules,
        rise=st.integers(1, 3),
        fall=st.integers(1, 3),
        repeat=st.integers(1, 3),
        window=st.integers(3, 8),
        grace=st.just(5.0),
        hold=st.sampled_from([0.0, 2.0]),
        max_hold=st.just(8.0),
    ),
)
def test_the_invariants_hold(rounds: list[Round], rules: TrackRules) -> None:
    run = Run(rules)
    seen: dict[tuple[Layer, str], int] = {}
    down_since = 0.0
    for findings in rounds:
        before = run.history
        run.rounds(findings)
        verdict = run.last
        for finding in findings:
            key = finding.layer, finding.subject
            answered = finding.reason not in (Reason.MODEL_BUSY, Reason.CANARY_LATE)
            if finding.level is Level.CRITICAL:
                seen[key] = 0
            elif answered:
                seen[key] = seen.get(key, 0) + 1
        if verdict.serving and before.state not in SERVING:
            # It serves only once every layer of every subject is proven, at once and in a row.
            assert all(seen.get(key, 0) >= rules.rise for key in before.required)
            assert verdict.models == set(MODELS)
            assert before.state is not State.CRITICAL or run.now - down_since >= rules.hold
        if before.state in SERVING and not verdict.serving:
            assert any(finding.level is Level.CRITICAL for finding in findings)
            down_since = run.now
        if verdict.state is State.STARTING:
            assert not before.proven
            assert run.now < rules.grace
        assert (verdict.state is State.PASSING) == (verdict.reason is Reason.OK)
        assert verdict.weight in {percent for _, percent in rules.weights}
