"""What people, and the guard for them, do with a release: all of it, or nothing. Pure."""

from dataclasses import replace

from sidecar.runtime.errors import Conflict
from sidecar.traffic.policy import Release, TrafficPolicy

_LONGEST = 1000  # characters of why; as in the policy's rules


def promoted(policy: TrafficPolicy) -> TrafficPolicy:
    """With all requests going to the release.

    Raises:
        Conflict: there is none, or it was rolled back.
    """
    release = _release(policy)
    if release.rolled_back:
        raise Conflict(f"the release was rolled back {release.rolled_back}; `policy set` a new one")
    return replace(policy, release=replace(release, percent=100))


def rolled_back(policy: TrafficPolicy, why: str) -> TrafficPolicy:
    """With no request going to the release; one that was rolled back before keeps its reason.

    Raises:
        Conflict: there is none.
    """
    release = _release(policy)
    if release.rolled_back:
        return policy
    # As it comes from a command line it may hold what no encoding has.
    text = " ".join(why.encode(errors="replace").decode().split())[:_LONGEST] or "without a reason"
    return replace(policy, release=replace(release, rolled_back=text))


def _release(policy: TrafficPolicy) -> Release:
    if policy.release is None:
        raise Conflict("the policy has no release")
    return policy.release
