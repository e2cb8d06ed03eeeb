"""Which expectations and objectives a run did not meet."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drill.objectives import Objectives
from sidecar.drill.record import Figures, Violation
from sidecar.drill.samples import Mark
from sidecar.drill.scenario import Expectation
from sidecar.drill.violations import violations

GOOD = {"sent": 100, "recovered": 5.0, "longest_gap": 0.5}
ANY = Expectation()
WRONG = Expectation(wrong_until_verdict=True)
MOVES = Expectation(moves_role=True)
HUNG = Expectation(reasons=frozenset({"MODEL_HUNG"}))


def found(expected: Expectation = ANY, *marks: Mark, **figures: object) -> tuple[Violation, ...]:
    return violations(
        Figures(**{**GOOD, **figures}),  # type: ignore[arg-type]
        expected,
        Objectives(),
        marks,
        injected=10.0,
        victim="old",
    )


def codes(expected: Expectation = ANY, *marks: Mark, **figures: object) -> list[str]:
    return [each.code for each in found(expected, *marks, **figures)]


def test_a_run_without_faults_passes() -> None:
    assert codes() == []


@pytest.mark.parametrize(
    ("expected", "figures", "code"),
    [
        (Expectation(), {"failed": 1}, "failed"),
        (Expectation(), {"availability": 0.998}, "availability"),
        (Expectation(fails=True), {"failed": 2, "availability": 0.998}, "availability"),
        (Expectation(), {"sent": 0}, "failed"),
        (Expectation(), {"wrong": 1, "wrong_last": 0.1}, "wrong"),
        (WRONG, {"wrong": 9, "wrong_last": 5.1}, "wrong"),
        (WRONG, {"wrong": 9, "wrong_last": 3, "wrong_after_verdict": 1}, "wrong_after_verdict"),
        (Expectation(), {"streams": 2, "streams_cut": 1}, "streams_cut"),
        (Expectation(), {"streams": 2, "streams_wrong": 1}, "streams_wrong"),
        (Expectation(moves_role=False), {"decision": 1.0}, "role_moved"),
        (MOVES, {"rto": 1.0}, "role_kept"),
        (MOVES, {"decision": 1.0}, "rto"),
        (MOVES, {"decision": 1.0, "rto": 10.1}, "rto"),
        (Expectation(), {"longest_gap": 10.1}, "longest_gap"),
        (Expectation(), {"recovered": None}, "recovered"),
        (Expectation(), {"recovered": 120.1}, "recovered"),
    ],
)
def test_each_violation_has_its_code(
    expected: Expectation, figures: dict[str, object], code: str
) -> None:
    assert codes(expected, **figures) == [code]


@pytest.mark.parametrize(
    ("expected", "figures"),
    [
        (Expectation(fails=True), {"failed": 1, "availability": 0.999, "longest_gap": 50.0}),
        (Expectation(fails=True), {"streams": 2, "streams_cut": 1}),
        (Expectation(cuts_streams=True), {"streams": 2, "streams_cut": 1}),
        (WRONG, {"wrong": 9, "streams_wrong": 1, "wrong_last": 5.0}),
        (Expectation(moves_role=None), {"decision": 1.0}),
        (Expectation(moves_role=False), {}),
        (MOVES, {"decision": 1.0, "rto": 10.0}),
        (Expectation(), {"sent": 0, "streams": 1}),
    ],
)
def test_what_is_expected_is_no_violation(
    expected: Expectation, figures: dict[str, object]
) -> None:
    assert codes(expected, **figures) == []


def test_the_verdict_names_one_of_the_reasons() -> None:
    def verdict(reason: str, instance: str = "old", at: float = 11.0, detail: str = "") -> Mark:
        return Mark(at, "verdict", instance, detail, status="critical", reason=reason)

    assert codes(HUNG, verdict("MODEL_HUNG"), detection=1.0) == []
    assert codes(HUNG, verdict("MODEL_BUSY"), detection=1.0) == ["reason"]
    assert codes(HUNG, verdict("", detail="critical MODEL_HUNG"), detection=1.0) == ["reason"]
    assert codes(HUNG, verdict("MODEL_HUNG", "new"), detection=1.0) == ["reason"]
    assert codes(HUNG, verdict("MODEL_HUNG", at=9.0), detection=1.0) == ["reason"]
    assert codes(HUNG, verdict("MODEL_HUNG"), detection=11.0) == ["detection"]
    assert codes(HUNG) == ["detection", "reason"]


def test_an_instance_that_must_stay_healthy_may_warn() -> None:
    stays = Expectation(stays_healthy=True)
    warns = Mark(11.0, "verdict", "old", status="warning", reason="MODEL_BUSY")
    fails = Mark(12.0, "verdict", "old", status="critical", reason="MODEL_HUNG")
    assert codes(stays, warns, replace(fails, instance="new")) == []
    assert codes(stays, warns, fails, fails) == ["unhealthy"]
    assert codes(ANY, fails) == []


def test_recovery_counts_from_the_removal_of_the_fault() -> None:
    removed = Mark(110.0, "restored")
    assert codes(Expectation(), removed, recovered=215.0) == []
    assert codes(Expectation(), removed, recovered=221.0) == ["recovered"]


@pytest.mark.parametrize(
    ("primaries", "right"),
    [
        ((("a", 1), ("b", 2), ("a", 7)), True),
        ((("a", 1), ("a", 1)), True),
        ((("a", 2), ("b", 1)), False),
        ((("a", 2), ("b", 2)), False),
        ((("a", 0),), False),
    ],
)
def test_epochs_only_grow(primaries: tuple[tuple[str, int], ...], right: bool) -> None:
    marks = [
        Mark(at, "published", instance, epoch=epoch)
        for at, (instance, epoch) in enumerate(primaries)
    ]
    assert codes(Expectation(), *marks[::-1]) == ([] if right else ["epochs"])


@pytest.mark.wording
def test_a_violation_says_what_was_expected_and_found() -> None:
    said = [(each.expected, each.found) for each in found(failed=3, recovered=None)]
    assert said == [("0 requests", "3 of 100"), ("at most 120 s", "never")]
    [share] = found(Expectation(fails=True), failed=3, availability=0.9985)
    assert (share.expected, share.found) == ("at least 99.9 % answered", "99.85 %")
    [wrong] = found(WRONG, wrong=9, wrong_last=7.0)
    assert (wrong.expected, wrong.found) == ("none sent after 5 s", "9, until 7.000 s")
    fails = Mark(12.0, "verdict", "old", status="critical", reason="MODEL_HUNG")
    [unhealthy] = found(Expectation(stays_healthy=True), fails)
    assert (unhealthy.expected, unhealthy.found) == (
        "no critical verdict",
        "old is critical MODEL_HUNG",
    )


@given(
    st.builds(
        Expectation,
        moves_role=st.sampled_from([None, True, False]),
        reasons=st.sampled_from([frozenset(), frozenset({"MODEL_HUNG"})]),
        wrong_until_verdict=st.booleans(),
        fails=st.booleans(),
        cuts_streams=st.booleans(),
        stays_healthy=st.booleans(),
    ),
    st.fixed_dictionaries(
        {
            "failed": st.integers(0, 100),
            "availability": st.none() | st.floats(0, 1),
            "wrong": st.integers(0, 100),
            "wrong_last": st.none() | st.floats(0, 20),
            "streams_cut": st.integers(0, 3),
            "streams_wrong": st.integers(0, 3),
            "decision": st.none() | st.floats(0, 20),
            "rto": st.none() | st.floats(0, 20),
        }
    ),
)
def test_each_code_is_there_once(expected: Expectation, figures: dict[str, object]) -> None:
    said = codes(expected, streams=3, **figures)
    assert len(said) == len(set(said))
