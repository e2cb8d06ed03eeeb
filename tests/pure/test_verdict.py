from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.health.verdict import (
    SERVER,
    UNPROVEN,
    Finding,
    Reason,
    Rules,
    State,
    Verdict,
    assess,
    begin,
    draining,
)

RULES = Rules(rise=2, fall=3, grace=10.0)
MODELS = ("chat", "embed")


def ok(*subjects: str) -> tuple[Finding, ...]:
    return tuple(Finding("layer", subject, Reason.OK) for subject in subjects)


def bad(subject: str, reason: Reason, detail: str = "") -> tuple[Finding, ...]:
    return (Finding("layer", subject, reason, detail),)


GOOD = ok(SERVER, *MODELS)
PORT = bad(SERVER, Reason.PORT_UNREACHABLE, "connection refused")
WRONG = ok(SERVER, "embed") + bad("chat", Reason.CANARY_WRONG_ANSWER, "chat: got 1")


def verdicts(*rounds: tuple[Finding, ...], step: float = 1.0) -> list[Verdict]:
    """The verdict after each round; the first round ends at `step`."""
    history, found = begin(MODELS, 0.0), []
    for number, evidence in enumerate(rounds, 1):
        history, verdict = assess(history, evidence, RULES, number * step)
        found.append(verdict)
    return found


def states(*rounds: tuple[Finding, ...], step: float = 1.0) -> list[str]:
    return [verdict.state.value for verdict in verdicts(*rounds, step=step)]


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([GOOD, GOOD], ["starting", "passing"]),
        ([GOOD, PORT, GOOD, GOOD], ["starting", "starting", "starting", "passing"]),
        ([GOOD, GOOD, PORT, PORT, PORT], ["starting", "passing", "passing", "passing", "critical"]),
        ([GOOD, GOOD, PORT, PORT, GOOD, PORT], ["starting"] + ["passing"] * 5),
        (
            [GOOD, GOOD, PORT, PORT, PORT, GOOD, GOOD],
            ["starting", "passing", "passing", "passing", "critical", "critical", "passing"],
        ),
        ([GOOD, GOOD, (), (), ()], ["starting", "passing", "passing", "passing", "critical"]),
    ],
    ids=["rise", "streak broken", "fall", "fall broken", "recovery", "no evidence"],
)
def test_rise_and_fall(rounds: list[tuple[Finding, ...]], expected: list[str]) -> None:
    assert states(*rounds) == expected


def test_the_grace_ends() -> None:
    found = states(*[PORT] * 4, step=4.0)
    assert found == ["starting", "starting", "critical", "critical"]


def test_an_instance_that_was_proven_has_no_grace_any_more() -> None:
    assert states(GOOD, GOOD, PORT, PORT, PORT, step=0.1)[-1] == "critical"


def test_a_failing_model_names_itself_and_leaves_the_other_one_up() -> None:
    verdict = verdicts(GOOD, GOOD, *[WRONG] * 3)[-1]
    assert verdict.state is State.CRITICAL
    assert verdict.reason is Reason.CANARY_WRONG_ANSWER
    assert verdict.models == {"embed"}
    assert verdict.summary == "CRITICAL CANARY_WRONG_ANSWER: chat: got 1"


def test_a_failing_server_takes_every_model_along() -> None:
    assert verdicts(GOOD, GOOD, *[PORT] * 3)[-1].models == frozenset()


def test_a_model_that_was_not_asked_has_not_passed() -> None:
    assert states(*[ok(SERVER, "chat")] * 5)[-1] == "starting"


def test_the_detail_stays_while_the_reason_does() -> None:
    again = ok(SERVER, "embed") + bad("chat", Reason.CANARY_WRONG_ANSWER, "chat: got 2")
    found = verdicts(GOOD, GOOD, WRONG, WRONG, again, again)
    assert found[-1] == found[-2]
    assert found[-1].detail == "chat: got 1"


def test_evidence_and_time_do_not_make_another_verdict() -> None:
    verdict = verdicts(GOOD, GOOD)[-1]
    assert replace(verdict, evidence=(), at=99.0) == verdict


def test_draining_serves_nothing() -> None:
    withdrawn = draining(verdicts(GOOD, GOOD)[-1], "told to stop", 3.0)
    assert (withdrawn.serving, withdrawn.models) == (False, frozenset())
    assert withdrawn.summary == "DRAINING DRAINING: told to stop"


def test_nothing_is_served_before_the_first_round() -> None:
    assert not UNPROVEN.serving


def test_nobody_begins_to_serve_in_a_failing_round() -> None:
    """Each model has had its row of good rounds, but not both at once."""
    only_embed = ok(SERVER, "embed") + bad("chat", Reason.CANARY_FAILED)
    only_chat = ok(SERVER, "chat") + bad("embed", Reason.CANARY_FAILED)
    rounds = [only_embed, only_embed, only_chat, only_chat, GOOD]
    assert states(*rounds) == ["starting"] * 4 + ["passing"]


findings = st.builds(
    Finding,
    layer=st.just("layer"),
    subject=st.sampled_from([SERVER, *MODELS]),
    reason=st.sampled_from([Reason.OK, Reason.OK, Reason.OK, Reason.CANARY_TIMEOUT]),
)
rounds = st.lists(st.one_of(st.just(GOOD), st.lists(findings, max_size=4).map(tuple)), max_size=40)


@given(rounds, st.integers(1, 4), st.integers(1, 4))
def test_it_serves_only_after_rise_good_rounds_and_stops_after_fall_bad_ones(
    evidence: list[tuple[Finding, ...]], rise: int, fall: int
) -> None:
    rules = Rules(rise, fall, grace=5.0)
    history = begin(MODELS, 0.0)
    good_in_a_row = bad_in_a_row = 0
    was_serving = False
    for number, found in enumerate(evidence, 1):
        history, verdict = assess(history, found, rules, float(number))
        asked = {finding.subject for finding in found}
        good = asked == {SERVER, *MODELS} and all(finding.ok for finding in found)
        good_in_a_row = good_in_a_row + 1 if good else 0
        bad_in_a_row = 0 if good else bad_in_a_row + 1
        if verdict.serving and not was_serving:
            assert good
        if not was_serving and good_in_a_row >= rise:
            assert verdict.serving
        if verdict.serving:
            assert number >= rise
            assert verdict.models == set(MODELS)
        if was_serving and not verdict.serving:
            assert bad_in_a_row >= fall
        assert (verdict.state is State.STARTING) <= (not history.proven and number < 5)
        was_serving = verdict.serving
