"""Findings expire: a layer without recent findings is not proven."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.health.decision import (
    evidence,
    expect,
    expired,
)
from sidecar.verdict.evidence import SERVER, Finding, Layer, Reason
from sidecar.verdict.verdict_line import State
from tests.support.findings import GOOD, MODELS, Round, Run, canary, chat

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
def test_a_layer_without_recent_findings_is_not_proven(layer: Layer, subject: str) -> None:
    silent = without(layer, subject)
    run = bounded(ALL, ALL, *[silent] * 5)
    assert run.last.state is State.PASSING
    verdict = run.rounds(silent).last
    assert (verdict.state, verdict.reason) == (State.CRITICAL, Reason.EVIDENCE_STALE)
    assert verdict.models == ({*MODELS} - {subject} if subject else set())
    assert run.rounds(*[silent] * 20).last == verdict
    assert run.rounds(ALL).last == verdict
    assert run.rounds(ALL).last.state is State.PASSING


def test_a_stale_layer_is_reported_once() -> None:
    run = bounded(ALL, ALL)
    reported: list[Finding] = []
    for _ in range(20):
        before = run.history
        run.rounds(without(Layer.CANARY, "chat"))
        reported += expired(before, run.history)
    assert [each.detail for each in reported] == ["chat: no canary finding for 5 s"]


@pytest.mark.parametrize("reason", [Reason.OK, Reason.GPU_HOT])
def test_an_optional_layer_is_unknown_when_it_is_stale(reason: Reason) -> None:
    gpu = Finding(Layer.GPU, SERVER, reason)
    run = bounded(*[(*ALL, gpu)] * 4, *[ALL] * 7)
    assert run.last.state is State.PASSING
    [found] = [each for each in evidence(run.history) if each.layer is Layer.GPU]
    assert found.reason is Reason.EVIDENCE_STALE
    assert run.rounds(*[(*ALL, gpu)] * 3).last.reason is reason


def test_silence_clears_no_fault() -> None:
    faulty = Finding(Layer.GPU, SERVER, Reason.GPU_XID, "GPU-1: Xid 79")
    run = bounded(ALL, ALL, (*ALL, faulty), *[ALL] * 30)
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


def test_unreadable_counters_are_not_silence() -> None:
    unknown = tuple(replace(each, reason=Reason.STATISTICS_UNAVAILABLE) for each in COUNTED)
    run = bounded(ALL, ALL, *[(*chat(Reason.CANARY_LATE), *unknown)] * 30)
    assert run.last.state is State.WARNING


@given(st.lists(st.floats(3.0, 1e6), min_size=1, max_size=3))
def test_after_a_suspension_no_layer_is_stale(naps: list[float]) -> None:
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
def test_an_instance_that_serves_has_a_recent_finding_for_every_layer(
    rounds: list[tuple[Round, float]],
) -> None:
    run = bounded()
    watched, last_at = 0.0, dict.fromkeys(BOUNDS, 0.0)
    for findings, step in rounds:
        before = run.last.serving if run.verdicts else False
        run.rounds(findings, step=step)
        watched += min(step, run.rules.pulse)
        for finding in findings:
            progress = watched - last_at[Layer.PROGRESS, finding.subject or "chat"] <= BOUND
            if finding.reason is Reason.OK or progress:
                last_at[finding.layer, finding.subject] = watched
        lately = all(watched - last_at[key] <= BOUND for key in run.history.required)
        assert lately or not run.last.serving
        if before and lately:
            assert run.last.serving
