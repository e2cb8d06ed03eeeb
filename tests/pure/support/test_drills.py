"""What a test may forgive a drill on a busy machine."""

import pytest

from sidecar.drill.record import Run, Violation
from tests.support.drills import not_late

LATE = Violation("rto", "at most 1 s", "2.000 s")
LATEST = Violation("recovered", "at most 30 s", "never")


@pytest.mark.parametrize(
    "violation",
    [
        Violation("detection", "at most 1 s", "never"),
        Violation("rto", "at most 1 s", "never"),
        Violation("role_kept", "another primary", "the same"),
        Violation("failed", "0 requests", "1 of 9"),
    ],
)
def test_only_a_late_outcome_is_forgiven(violation: Violation) -> None:
    run = Run("", "", "", 1, "", "failed", violations=(LATE, violation, LATEST))
    assert not_late(run) == [violation]
