from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.health.decision import (
    History,
    Override,
    assess,
    begin,
    evidence,
    expect,
    expired,
    forget,
    overridden,
    restarted,
)
from sidecar.health.track import TrackRules
from sidecar.v1 import health_pb2
from sidecar.verdict.evidence import SERVER, Finding, Layer, Level, Reason
from sidecar.verdict.verdict import SERVING, UNPROVEN, Verdict
from sidecar.verdict.verdict_line import State

RULES = TrackRules(rise=2, fall=3, repeat=2, window=6, grace=10.0, hold=0.0, max_hold=60.0)
MODELS = ("chat", "embed")
Round = tuple[Finding, ...]


def of_server(layer: Layer = Layer.PORT, reason: Reason = Reason.OK, detail: str = "") -> Finding:
    return Finding(layer, SERVER, reason, detail)


def canary(model: str, reason: Reason = Reason.OK, detail: str = "", strain: float = 1) -> Finding:
    return Finding(Layer.CANARY, model, reason, detail, strain=strain)


SERVER_FINE = tuple(of_server(layer) for layer in (Layer.PORT, Layer.LIVE, Layer.READY))
READY = tuple(Finding(Layer.MODEL, model, Reason.OK) for model in MODELS)
GOOD = (*SERVER_FINE, *READY, *map(canary, MODELS))
PORT = (of_server(Layer.PORT, Reason.PORT_UNREACHABLE, "connection refused"),)


def chat(reason: Reason, detail: str = "", strain: float = 1) -> Round:
    """A round in which all is well but the chat model's canary."""
    return (*SERVER_FINE, *READY, canary("embed"), canary("chat", reason, detail, strain))


WRONG = chat(Reason.CANARY_WRONG_ANSWER, "chat: got 1")
LATE = chat(Reason.CANARY_UNANSWERED)
BUSY = chat(Reason.MODEL_BUSY)
SLOW = chat(Reason.CANARY_SLOW)


class Run:
    """Rounds of findings, a second apart unless said otherwise, and what was made of them."""

    def __init__(self, rules: TrackRules = RULES, models: Sequence[str] = MODELS) -> None:
        self.rules = rules
        self.now = 0.0
        self.history: History = begin(models, 0.0)
        self.verdicts: list[Verdict] = []

    def rounds(self, *rounds: Round, step: float = 1.0) -> "Run":
        for findings in rounds:
            self.now += step
            self.history, verdict = assess(self.history, findings, self.rules, self.now)
            self.verdicts.append(verdict)
        return self

    @property
    def states(self) -> list[str]:
        return [verdict.state.value for verdict in self.verdicts]

    @property
    def last(self) -> Verdict:
        return self.verdicts[-1]


def states(*rounds: Round, rules: TrackRules = RULES) -> list[str]:
    return Run(rules).rounds(*rounds).states


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
        "begins with a warning",
        "what is not answered proves nothing",
        "a warning never grows into more",
    ],
)
def test_rise_and_fall(rounds: list[Round], expected: list[str]) -> None:
    assert states(*rounds) == expected


def test_a_wrong_answer_that_is_repeated_counts_although_good_ones_lie_between() -> None:
    assert states(GOOD, GOOD, WRONG, GOOD, GOOD, WRONG)[-2:] == ["passing", "critical"]


def test_a_wrong_answer_long_ago_is_forgotten() -> None:
    assert states(GOOD, GOOD, WRONG, *[GOOD] * 6, WRONG)[-1] == "passing"


def test_what_was_not_answered_counts_in_a_row_only() -> None:
    assert set(states(GOOD, *[GOOD, LATE, LATE] * 10)[1:]) == {"passing"}
    assert states(GOOD, GOOD, LATE, LATE, LATE)[-1] == "critical"


def test_a_model_that_gives_a_wrong_answer_now_and_then_is_not_taken_back_between() -> None:
    run = Run().rounds(GOOD, GOOD, WRONG, WRONG)
    run.rounds(*[*[GOOD] * 5, WRONG] * 5)
    assert set(run.states[4:]) == {"critical"}
    assert run.rounds(*[GOOD] * 6).states[-1] == "passing"


@pytest.mark.parametrize("reason", [Reason.MODEL_HUNG, Reason.CONFIG])
def test_what_has_been_confirmed_already_counts_at_once(reason: Reason) -> None:
    assert states(GOOD, GOOD, chat(reason))[-1] == "critical"


def test_an_unknown_layer_speaks_neither_for_nor_against() -> None:
    unknown = Finding(Layer.GPU, SERVER, Reason.GPU_UNAVAILABLE)
    silent = Finding(Layer.PROGRESS, "chat", Reason.STATISTICS_UNAVAILABLE)
    run = Run().rounds(*[(*GOOD, unknown, silent)] * 20)
    assert run.states[1:] == ["passing"] * 19
    assert {unknown, silent} <= set(evidence(run.history))


def test_an_unproven_layer_is_not_replaced_by_other_good_ones() -> None:
    assert states(*[(*SERVER_FINE, *READY, canary("chat"))] * 5)[-1] == "starting"


@pytest.mark.parametrize("silence", [LATE, BUSY, chat(Reason.CANARY_LATE)])
def test_silence_lifts_nobody_who_gave_wrong_answers(silence: Round) -> None:
    run = Run().rounds(GOOD, GOOD, WRONG, WRONG, *[silence] * 30)
    assert run.last.state is State.CRITICAL


def test_what_is_not_known_any_more_excuses_nothing() -> None:
    sick = Finding(Layer.GPU, SERVER, Reason.GPU_XID, "GPU-1: Xid 79")
    gone = Finding(Layer.GPU, SERVER, Reason.GPU_UNAVAILABLE)
    run = Run().rounds(GOOD, GOOD, (sick,), *[(gone,)] * 5)
    assert run.last.summary == "CRITICAL GPU_XID: GPU-1: Xid 79"
    run.history = forget(run.history, Layer.GPU, SERVER)
    assert run.rounds(GOOD).last.state is State.PASSING


def test_a_server_started_anew_has_nothing_proven() -> None:
    run = Run().rounds(GOOD, GOOD)
    run.history = restarted(run.history)
    assert run.rounds(GOOD).last.state is State.CRITICAL
    assert run.rounds(GOOD).last.state is State.PASSING


def test_errors_and_wrong_answers_by_turns_are_one_cause() -> None:
    error = chat(Reason.CANARY_FAILED, "chat: INTERNAL")
    run = Run().rounds(GOOD, GOOD, *[WRONG, error] * 5)
    assert len({verdict.summary for verdict in run.verdicts[3:]}) == 1


def test_a_model_that_is_held_back_is_not_served_by_its_own_name_either() -> None:
    run = Run(replace(RULES, hold=60.0)).rounds(GOOD, GOOD, *[LATE] * 3, GOOD, GOOD)
    assert (run.last.state, run.last.models) == (State.CRITICAL, frozenset())


def test_a_sick_gpu_takes_the_instance_out_and_leaves_the_models_proven() -> None:
    sick = Finding(Layer.GPU, SERVER, Reason.GPU_XID, "GPU-1: Xid 79")
    run = Run().rounds(GOOD, GOOD, *[(*GOOD, sick)] * 3)
    assert run.last.summary == "CRITICAL GPU_XID: GPU-1: Xid 79"
    fine = Finding(Layer.GPU, SERVER, Reason.OK)
    assert run.rounds(*[(fine,)] * 2).last.state is State.PASSING


def test_the_grace_ends() -> None:
    assert Run().rounds(*[PORT] * 4, step=4.0).states == ["starting"] * 2 + ["critical"] * 2


def test_an_instance_that_was_proven_has_no_grace_any_more() -> None:
    assert Run().rounds(GOOD, GOOD, PORT, PORT, PORT, step=0.1).states[-1] == "critical"


def test_a_failing_model_names_itself_and_leaves_the_other_one_up() -> None:
    verdict = Run().rounds(GOOD, GOOD, WRONG, WRONG).last
    assert verdict.models == {"embed"}
    assert verdict.summary == "CRITICAL CANARY_WRONG_ANSWER: chat: got 1"


def test_a_failing_server_takes_every_model_along() -> None:
    assert Run().rounds(GOOD, GOOD, *[PORT] * 3).last.models == frozenset()


def test_after_the_server_was_away_everything_is_proven_anew() -> None:
    run = Run().rounds(GOOD, GOOD, *[PORT] * 3, *[SERVER_FINE] * 5)
    assert run.last.state is State.CRITICAL
    assert run.rounds(GOOD, GOOD).last.state is State.PASSING


def test_the_outermost_failure_is_the_one_to_name() -> None:
    both = (*PORT, canary("chat", Reason.CANARY_UNANSWERED))
    assert Run().rounds(GOOD, GOOD, *[both] * 3).last.reason is Reason.PORT_UNREACHABLE


def test_the_text_stays_while_the_reason_does() -> None:
    again = chat(Reason.CANARY_WRONG_ANSWER, "chat: got 2")
    run = Run().rounds(GOOD, GOOD, WRONG, WRONG, again, again)
    assert run.verdicts[-3:] == [run.last] * 3
    assert run.last.detail == "chat: got 1"


def test_a_strained_server_keeps_the_first_reason_for_its_warning() -> None:
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


def test_bad_news_is_not_held_back_by_a_warning() -> None:
    rules = replace(RULES, hold=60.0)
    assert Run(rules).rounds(GOOD, GOOD, *[BUSY] * 3, WRONG, WRONG).states[-1] == "critical"


def test_the_next_late_canary_does_not_ease_the_strain_of_the_last() -> None:
    rules = replace(RULES, hold=0.0)
    overloaded = [chat(Reason.MODEL_BUSY, strain=strain) for strain in (1, 3, 11)]
    answered = chat(Reason.CANARY_SLOW, strain=11)
    run = Run(rules).rounds(GOOD, GOOD, *[*overloaded, answered] * 5)
    weights = [verdict.weight for verdict in run.verdicts[-15:]]
    assert weights == [10] * 15
    assert run.rounds(*[GOOD] * 2).last.weight == 50


def test_the_weight_follows_the_strain_down_at_once_and_up_after_a_while() -> None:
    rules = replace(RULES, hold=3.0, weights=((1.0, 60), (4.0, 20)))
    run = Run(rules).rounds(GOOD, GOOD, *[chat(Reason.CANARY_SLOW, strain=2)] * 3)
    assert run.last.weight == 60
    assert run.rounds(chat(Reason.CANARY_SLOW, strain=5)).last.weight == 20
    eased = [chat(Reason.CANARY_SLOW, strain=2)] * 3
    assert [verdict.weight for verdict in run.rounds(*eased).verdicts[-3:]] == [20, 20, 60]


def test_draining_and_maintenance_serve_nothing_and_remember_the_fitness() -> None:
    verdict = Run().rounds(GOOD, GOOD).last
    for order, state in ((Override.DRAIN, State.DRAINING), (Override.MAINTAIN, State.MAINTENANCE)):
        found = overridden(verdict, order, "new disks")
        assert (found.state, found.serving, found.models) == (state, False, frozenset())
        assert found.fitness is State.PASSING
        assert found.summary == f"{state.upper()} {state.upper()}: new disks"
    assert overridden(verdict, Override.SERVE, "") == verdict


def test_time_does_not_make_another_verdict() -> None:
    verdict = Run().rounds(GOOD, GOOD).last
    assert replace(verdict, at=99.0) == verdict


def test_nothing_is_served_before_the_first_finding() -> None:
    assert not UNPROVEN.serving
    assert not assess(begin(MODELS, 0.0), (), RULES, 0.0)[1].serving


def test_nobody_begins_to_serve_unless_all_is_well_at_once() -> None:
    """Each model has had its row of good ones, but not both at once."""
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
def test_what_always_holds(rounds: list[Round], rules: TrackRules) -> None:
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
            # Whoever begins to serve has proven every layer of every subject, at once and in a row.
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


# --- what counts for a while only ---------------------------------------------------------------

BOUND = 5.0  # seconds
BOUNDS = {
    **{(layer, SERVER): BOUND for layer in (Layer.PORT, Layer.LIVE, Layer.READY, Layer.GPU)},
    **{
        (layer, name): BOUND
        for layer in (Layer.MODEL, Layer.CANARY, Layer.PROGRESS, Layer.TRAFFIC)
        for name in MODELS
    },
}
COUNTED = tuple(Finding(Layer.PROGRESS, name, Reason.OK) for name in MODELS)
ALL = (*GOOD, *COUNTED)


def bounded(*rounds: Round, step: float = 1.0) -> Run:
    run = Run()
    run.history = expect(run.history, BOUNDS)
    return run.rounds(*rounds, step=step)


def without(layer: Layer, subject: str, findings: Round = ALL) -> Round:
    return tuple(each for each in findings if (each.layer, each.subject) != (layer, subject))


@pytest.mark.parametrize(
    ("layer", "subject"), [key for key in BOUNDS if key[0] in {found.layer for found in GOOD}]
)
def test_what_nothing_is_found_out_about_any_more_is_not_proven(layer: Layer, subject: str) -> None:
    silent = without(layer, subject)
    run = bounded(ALL, ALL, *[silent] * 5)
    assert run.last.state is State.PASSING
    verdict = run.rounds(silent).last
    assert (verdict.state, verdict.reason) == (State.CRITICAL, Reason.EVIDENCE_STALE)
    assert verdict.models == ({*MODELS} - {subject} if subject else set())
    assert run.rounds(*[silent] * 20).last == verdict
    assert run.rounds(ALL).last == verdict
    assert run.rounds(ALL).last.state is State.PASSING


def test_what_has_become_stale_is_told_once() -> None:
    run = bounded(ALL, ALL)
    told: list[Finding] = []
    for _ in range(20):
        before = run.history
        run.rounds(without(Layer.CANARY, "chat"))
        told += expired(before, run.history)
    assert [each.detail for each in told] == ["chat: no canary finding for 5 s"]


@pytest.mark.parametrize("reason", [Reason.OK, Reason.GPU_HOT])
def test_a_layer_that_need_not_be_proven_is_unknown_when_it_is_stale(reason: Reason) -> None:
    gpu = Finding(Layer.GPU, SERVER, reason)
    run = bounded(*[(*ALL, gpu)] * 4, *[ALL] * 7)
    assert run.last.state is State.PASSING
    [found] = [each for each in evidence(run.history) if each.layer is Layer.GPU]
    assert found.reason is Reason.EVIDENCE_STALE
    assert run.rounds(*[(*ALL, gpu)] * 3).last.reason is reason


def test_silence_excuses_nothing() -> None:
    sick = Finding(Layer.GPU, SERVER, Reason.GPU_XID, "GPU-1: Xid 79")
    run = bounded(ALL, ALL, (*ALL, sick), *[ALL] * 30)
    assert run.last.summary == "CRITICAL GPU_XID: GPU-1: Xid 79"


@pytest.mark.parametrize("reason", [Reason.MODEL_BUSY, Reason.CANARY_LATE])
def test_a_late_canary_is_watched_as_long_as_the_counters_are(reason: Reason) -> None:
    late = (*chat(reason), *COUNTED)
    run = bounded(ALL, ALL, *[late] * 300)
    assert run.last.state is State.WARNING
    blind = without(Layer.PROGRESS, "chat", late)
    run.rounds(*[blind] * 9)
    assert run.last.state is State.WARNING
    assert run.rounds(*[blind] * 3).last.reason is Reason.EVIDENCE_STALE
    assert run.rounds(*[late] * 20).last.state is State.CRITICAL  # that proves nothing either
    assert run.rounds(*[ALL] * 2).last.state is State.PASSING


def test_counters_that_cannot_be_read_are_no_silence() -> None:
    unknown = tuple(replace(each, reason=Reason.STATISTICS_UNAVAILABLE) for each in COUNTED)
    run = bounded(ALL, ALL, *[(*chat(Reason.CANARY_LATE), *unknown)] * 30)
    assert run.last.state is State.WARNING


@given(st.lists(st.floats(3.0, 1e6), min_size=1, max_size=3))
def test_who_has_slept_holds_nothing_against_anybody(naps: list[float]) -> None:
    run = bounded(ALL, ALL)
    for nap in naps:
        run.rounds((), step=nap).rounds(ALL)
    assert {verdict.state for verdict in run.verdicts[1:]} == {State.PASSING}


partly = st.lists(
    st.sampled_from([*ALL, canary("chat", Reason.MODEL_BUSY)]), max_size=9, unique=True
)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.just(ALL), partly.map(tuple)),
            st.sampled_from([0.5, 1.0, 2.0, 2.0, 100.0]),
        ),
        max_size=60,
    )
)
def test_who_serves_has_found_out_about_every_layer_lately(
    rounds: list[tuple[Round, float]],
) -> None:
    run = bounded()
    watched, heard = 0.0, dict.fromkeys(BOUNDS, 0.0)
    for findings, step in rounds:
        before = run.last.serving if run.verdicts else False
        run.rounds(findings, step=step)
        watched += min(step, run.rules.pulse)
        for finding in findings:
            progress = watched - heard[Layer.PROGRESS, finding.subject or "chat"] <= BOUND
            if finding.reason is Reason.OK or progress:
                heard[finding.layer, finding.subject] = watched
        lately = all(watched - heard[key] <= BOUND for key in run.history.required)
        assert lately or not run.last.serving
        if before and lately:
            assert run.last.serving
