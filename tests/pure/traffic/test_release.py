"""Releases are promoted and rolled back as a whole."""

from dataclasses import replace

import pytest

from sidecar.runtime.errors import Conflict
from sidecar.traffic import release
from sidecar.traffic.document import dump, parse
from sidecar.traffic.policy import DEFAULTS, Release, TrafficPolicy


def test_promoted_and_rolled_back() -> None:
    policy = TrafficPolicy(release=Release(tag="v2", percent=5))
    assert policy.release
    promoted = release.promoted(policy)
    assert promoted.release == replace(policy.release, percent=100)
    ended = release.rolled_back(promoted, "by jane")
    assert ended.release == replace(promoted.release, rolled_back="by jane")
    assert ended.release.share == 0
    assert release.rolled_back(ended, "by joe") == ended
    with pytest.raises(Conflict, match="was rolled back by jane"):
        release.promoted(ended)


@pytest.mark.parametrize("change", [release.promoted, lambda it: release.rolled_back(it, "x")])
def test_without_a_release_promoting_is_a_conflict(change: object) -> None:
    assert callable(change)
    with pytest.raises(Conflict, match="has no release"):
        change(DEFAULTS)


@pytest.mark.parametrize("why", ["", "x" * 5000, "\udcff", "ünï"])
def test_any_reason_can_be_written(why: str) -> None:
    policy = release.rolled_back(TrafficPolicy(release=Release(tag="v2")), why)
    assert policy.release
    assert policy.release.rolled_back
    assert parse(dump(policy)) == policy
