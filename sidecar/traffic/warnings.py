"""Warnings about a traffic policy that the current instances do not fit. Pure."""

from collections.abc import Iterator, Sequence

from sidecar.consul.api import ServiceEntry
from sidecar.registry.registration import MODE_META, models_named, models_unusable
from sidecar.traffic.policy import Mode, Release, TrafficPolicy


def policy_warnings(
    before: TrafficPolicy, after: TrafficPolicy, entries: Sequence[ServiceEntry]
) -> Iterator[str]:
    """Warnings about replacing a policy; it is still allowed, because instances come and go.

    Args:
        before: the current policy.
        after: the new policy.
        entries: the service's instances in the catalog.
    """
    yield from _rolled_back_before(before.release, after.release)
    if (retries := after.retry.num_retries) > 1:
        yield (
            "retry.num_retries: a request that kills its server kills up to "
            f"{retries + 1}, unless a quarantine stops it"
        )
    yield from _timeouts(after)
    if not entries:
        yield "Consul lists no instance of the service; the ACL token may lack read access"
        return
    yield from _strict_modes(after.mode, entries)
    known = {entry.id for entry in entries}
    for instance, _ in after.weights:
        if instance not in known:
            yield f"weights: there is no instance {instance} at the moment"
    if after.release:
        yield from _release_matches(after.release, entries)
    yield from _models(after, entries)
    if after.locality.prefer_zone and not any(entry.meta.get("zone") for entry in entries):
        yield "locality.prefer_zone: no instance has set its zone (service.zone)"


def _models(policy: TrafficPolicy, entries: Sequence[ServiceEntry]) -> Iterator[str]:
    """Envoys and sidecars must agree on whether an instance needs all of its models."""
    if not policy.by_model:
        for entry in entries:
            for model, reason in models_unusable(entry.tags):
                yield f"routing: {entry.id} gets requests for {model}, which it lacks: {reason}"
        return
    known = {model for entry in entries for model in models_named(entry.tags)}
    for name, rule in policy.models:
        for model in (rule.to or name, *rule.fallback):
            if model not in known:
                yield f"models: {name}: no instance names the model {model} at the moment"


def _timeouts(policy: TrafficPolicy) -> Iterator[str]:
    """Only the operator knows how long a model may legitimately take."""
    if policy.times_out_attempts:
        longest, attempts = policy.limits.per_try_idle_timeout, policy.retry.num_retries + 1
        yield (
            f"limits.per_try_idle_timeout: requests whose first answer takes {longest:g}s fail, "
            f"after {attempts} attempts; no instance is avoided for lost connections, and there is "
            "no quarantine"
        )


def _strict_modes(mode: Mode, entries: Sequence[ServiceEntry]) -> Iterator[str]:
    """Envoys and sidecars must agree on what the role means."""
    strict = [entry.id for entry in entries if entry.meta.get(MODE_META) == Mode.STRICT]
    others = [entry.id for entry in entries if entry.id not in strict]
    if mode is Mode.STRICT and others:
        which = f"not strict themselves (election.mode): {', '.join(others)}"
        yield f"mode: {which}; an instance that loses the role may serve until Envoy is updated"
    if mode in (Mode.ACTIVE_ACTIVE, Mode.WEIGHTED) and strict:
        which = f"strict themselves (election.mode): {', '.join(strict)}"
        yield f"mode: {which}; they get no requests unless they are primary"


def _rolled_back_before(before: Release | None, after: Release | None) -> Iterator[str]:
    """The operator's file may be older than a rollback."""
    if not before or not before.rolled_back or not after or after.rolled_back:
        return
    if (before.model_set, before.tag) == (after.model_set, after.tag) and after.percent:
        yield f"release: it was rolled back {before.rolled_back}; it gets requests again"


def _release_matches(release: Release, entries: Sequence[ServiceEntry]) -> Iterator[str]:
    if release.model_set:
        wanted = f"serves the model set {release.model_set}"
        found = [entry for entry in entries if entry.meta.get("model_set") == release.model_set]
    else:
        wanted = f"has the tag {release.tag}"
        found = [entry for entry in entries if release.tag in entry.tags]
    if not found:
        yield f"release: no instance {wanted} yet; its share goes to the rest"
    if len(found) == len(entries) and release.share < 100:
        yield f"release: every instance {wanted}; no other instance is left for the rest"
