"""Since when a policy has been in force, as far as it concerns sequences."""

from dataclasses import replace

import pytest

from sidecar.traffic.policy import DEFAULTS, Affinity, Match, Mode, TrafficPolicy
from sidecar.xds.catalog.policy_indexes import PolicyIndexes, claims, without_history

FOLLOWED = replace(DEFAULTS, affinity=Affinity(sequence_header="x-sequence"))
SHARED = replace(FOLLOWED, mode=Mode.ACTIVE_ACTIVE)
RENAMED = replace(FOLLOWED, affinity=Affinity(sequence_header="x-run"))
CLAIMING = replace(FOLLOWED, match=Match(headers=(("x-team", "vision"),)))


@pytest.mark.parametrize(
    ("before", "after", "written", "expected"),
    [
        # Changes that do not concern sequences.
        (FOLLOWED, FOLLOWED, 9, PolicyIndexes(9, 5, 3)),
        (FOLLOWED, SHARED, 9, PolicyIndexes(9, 5, 3)),
        # The header is removed, changed, or added.
        (FOLLOWED, DEFAULTS, 9, PolicyIndexes(9, 9, 3)),
        (FOLLOWED, RENAMED, 9, PolicyIndexes(9, 9, 3)),
        (DEFAULTS, FOLLOWED, 9, PolicyIndexes(9, 9, 3)),
        (FOLLOWED, CLAIMING, 9, PolicyIndexes(9, 5, 9)),
        (CLAIMING, DEFAULTS, 9, PolicyIndexes(9, 9, 9)),
        # The document is deleted.
        (CLAIMING, DEFAULTS, 0, PolicyIndexes(0, -7, -7)),
        (FOLLOWED, DEFAULTS, 0, PolicyIndexes(0, -7, 3)),
    ],
)
def test_which_indexes_change_with_a_policy(
    before: TrafficPolicy, after: TrafficPolicy, written: int, expected: PolicyIndexes
) -> None:
    assert PolicyIndexes(7, 5, 3).changed(before, after, written) == expected


def test_a_policy_that_was_removed_and_restored_is_a_new_one() -> None:
    first = without_history(5)
    off = first.changed(FOLLOWED, DEFAULTS, 6)
    assert off.changed(DEFAULTS, FOLLOWED, 7).followed not in {first.followed, off.followed}
    deleted = without_history(5).changed(CLAIMING, DEFAULTS, 0)
    back = deleted.changed(DEFAULTS, CLAIMING, 8)
    states = [claims([("s", each)]) for each in (PolicyIndexes(), first, deleted, back)]
    assert len(set(states)) == 4


def test_after_a_default_policy_every_earlier_state_differs() -> None:
    states = {
        without_history(5).followed,
        without_history(5, 1_000).followed,
        without_history(5, 2_000).followed,
    }
    assert len(states) == 3


def test_all_claims_count() -> None:
    one, other = PolicyIndexes(1, 1, 1), PolicyIndexes(2, 2, 2)
    states = [
        claims([("a", one), ("b", one)]),
        claims([("a", one), ("b", other)]),
        claims([("a", one)]),
        claims([("b", one), ("a", one)]),
    ]
    assert len(set(states)) == len(states)
    assert claims([("a", PolicyIndexes(1, 1, 1))]) == claims([("a", PolicyIndexes(9, 9, 1))])
