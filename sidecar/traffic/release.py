"""Promoting and rolling back a release, by an operator or the guard. Pure."""

from dataclasses import replace

from sidecar.runtime.errors import Conflict
from sidecar.traffic.policy import Release, TrafficPolicy

_LONGEST = 1000  # characters of a reason; as in the policy's constraints


def promoted(policy: TrafficPolicy) -> TrafficPolicy:
    """The policy with all requests for the release.

    Raises:
        Conflict: there is none, or it was rolled back.
    """
    release = _release(policy)
    if release.rolled_back:
        raise Conflict(f"the release was rolled back {release.rolled_back}; `policy set` a new one")
    return replace(policy, release=replace(release, percent=100))


def rolled_back(policy: TrafficPolicy, why: str) -> TrafficPolicy:
    """The policy with no requests for the release; an earlier rollback keeps its reason.

    Raises:
        Conflict: there is none.
    """
    release = _release(policy)
    if release.rolled_back:
        return policy
    # A command line may contain characters that cannot be encoded.
    text = " ".join(why.encode(errors="replace").decode().split())[:_LONGEST] or "without a reason"
    return replace(policy, release=replace(release, rolled_back=text))


def _release(policy: TrafficPolicy) -> Release:
    if policy.release is None:
        raise Conflict("the policy has no release")
    return policy.release
