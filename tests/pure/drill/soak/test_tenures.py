"""One primary at any time: what claims the role, against the history."""

import pytest

from sidecar.drill.samples import Mark
from sidecar.drill.soak.tenures import Tenure, contradictions, of_marks

HISTORY = (Tenure(5, "triton-0"), Tenure(9, "triton-1"), Tenure(12, "triton-0"))


def codes(history: tuple[Tenure, ...], claims: tuple[Tenure, ...]) -> list[str]:
    return [each.code for each in contradictions(history, claims)]


def test_claims_of_tenures_are_right() -> None:
    assert codes(HISTORY, (HISTORY[2], HISTORY[0], HISTORY[0])) == []


@pytest.mark.parametrize(
    ("claim", "expected", "found"),
    [
        (Tenure(9, "triton-2"), "triton-1 in epoch 9", "triton-2"),
        (Tenure(10, "triton-1"), "no instance in epoch 10", "triton-1"),
        (Tenure(13, "triton-1"), "no instance in epoch 13", "triton-1"),
    ],
)
def test_a_claim_to_an_epoch_of_another_is_a_second_primary(
    claim: Tenure, expected: str, found: str
) -> None:
    [violation] = contradictions(HISTORY, (HISTORY[0], claim))
    assert (violation.code, violation.expected, violation.found) == ("primaries", expected, found)


def test_an_epoch_with_two_instances_is_found_in_the_history() -> None:
    assert codes((*HISTORY, Tenure(9, "triton-2")), ()) == ["primaries"]


def test_what_the_history_no_longer_has_is_not_judged() -> None:
    assert codes(HISTORY, (Tenure(4, "triton-2"),)) == []


def test_marks_of_the_lock_and_of_envoys_are_claims() -> None:
    marks = (
        Mark(1.0, "primary", "triton-0", epoch=5),
        Mark(2.0, "published", "triton-1", epoch=9),
        Mark(3.0, "acked", "triton-1", epoch=9),
        Mark(4.0, "verdict", "triton-1", status="critical"),
    )
    assert of_marks(marks) == (HISTORY[0], HISTORY[1], HISTORY[1])
