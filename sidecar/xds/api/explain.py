"""Why an instance gets requests, or none: the reasons as sentences. Pure."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.runtime.timestamps import timestamp
from sidecar.traffic.policy import Mode
from sidecar.xds.catalog.catalog import Health, Instance, ServiceCatalog
from sidecar.xds.config.endpoints import (
    Assignment,
    Placement,
    has_release,
    is_release,
    is_released,
    placements,
    service_of,
    share,
)

if TYPE_CHECKING:
    from sidecar.xds.catalog.service_watch import ServiceWatch


@dataclass(frozen=True, slots=True)
class RetainedState:
    """What is published about a service beyond, or against, what Consul shows.

    `missing` instances are retained though Consul does not show them, since when (Unix seconds);
    `serving` are those of them that report that they serve. `skipped` entries cannot be used, with
    the reason. `stale` is True while the published data is from disk, and `refused` says why a
    newer policy is ignored.
    """

    missing: Mapping[str, float] = field(default_factory=dict)
    serving: frozenset[str] = frozenset()
    skipped: Mapping[str, str] = field(default_factory=dict)
    stale: bool = False
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """An instance in one cluster; without a placement it is not listed there."""

    cluster: str
    placement: Placement | None
    why: tuple[str, ...]


def retained_state(watch: "ServiceWatch") -> RetainedState:
    """The retained state of a service's watches."""
    missing = {name: float(at) for each in watch.watches for name, at in each.missing.items()}
    return RetainedState(
        missing=missing,
        serving=frozenset(
            name for each in watch.watches for name in each.missing if each.says_it_serves(name)
        ),
        skipped={out.id: out.reason for each in watch.watches for out in each.skipped},
        stale=watch.stale,
        refused=watch.in_force.refused if watch.in_force else "",
    )


def explain(
    service: ServiceCatalog,
    assignments: Mapping[str, Assignment],
    retained: RetainedState,
    instance_id: str,
    zone: str = "",
    lingering: Collection[str] = (),
) -> tuple[Explanation, ...]:
    """Why an instance has its placement in each of a service's clusters; empty if it is unknown.

    Args:
        service: as the snapshot was built from it.
        assignments: those of the snapshot, by cluster.
        retained: what is published beyond Consul's catalog.
        instance_id: the instance to explain.
        zone: the control plane's own.
        lingering: clusters that no route leads to any more.
    """
    found = next((each for each in service.instances if each.id == instance_id), None)
    held = tuple(_retention_reasons(instance_id, retained))
    if found is None:
        known = instance_id in retained.missing or instance_id in retained.skipped
        return (Explanation(service.name, None, held),) if known else ()
    if not service.settled:
        unknown = ("too little is known about the service to publish its endpoints",)
        return (Explanation(service.name, None, unknown),)
    return tuple(
        _explained(service, assignment, found, zone, held, lingers=name in lingering)
        for name, assignment in assignments.items()
        if service_of(name) == service.name
    )


def _retention_reasons(instance_id: str, retained: RetainedState) -> Iterator[str]:
    """What retention and skipped entries have to do with it."""
    if (at := retained.missing.get(instance_id)) is not None:
        report = (
            "it reports that it serves" if instance_id in retained.serving else "it does not answer"
        )
        yield f"kept although it vanished from the catalog at {timestamp(at)}: {report}"
    if reason := retained.skipped.get(instance_id):
        yield f"its entry in the catalog: {reason}"
    if retained.stale:
        yield "Consul has not confirmed it since this control plane started"
    if retained.refused:
        yield f"the policy in Consul is ignored: {retained.refused}"


def _explained(
    service: ServiceCatalog,
    assignment: Assignment,
    instance: Instance,
    zone: str,
    held: tuple[str, ...],
    *,
    lingers: bool,
) -> Explanation:
    place = placements({assignment.cluster: assignment}).get((assignment.cluster, instance.id))
    if place is None:
        twin = next(
            (each.id for each in assignment.listed if each.endpoint == instance.endpoint), ""
        )
        why = f"not listed: {twin} has the same address, and is used instead"
        return Explanation(assignment.cluster, None, (why, *held))
    if place.priority is None:
        reasons = [*_withdrawn_reasons(service, instance)]
    else:
        reasons = [*_mode_reasons(service, instance)]
    if lingers and not is_release(assignment.cluster):
        reasons.append(
            "an earlier policy's cluster: it gets no new requests, and finishes those it has"
        )
    if place.priority is not None:
        reasons += _release_reasons(
            service, assignment.cluster, instance, first=place.priority == 0
        )
        reasons += _locality_reasons(service, instance, zone)
        reasons += _weight_reasons(instance)
        reasons += _silence_reasons(instance)
        reasons += _model_reasons(service, assignment, instance)
    return Explanation(assignment.cluster, place, (*reasons, *held))


def _leads(service: ServiceCatalog, instance: Instance) -> bool:
    return service.leader is not None and service.leader.instance == instance.id


def _primary(service: ServiceCatalog) -> str:
    if service.leader is None:
        return "there is no primary"
    return f"{service.leader.instance} is primary of epoch {service.leader.epoch}"


def _withdrawn_reasons(service: ServiceCatalog, instance: Instance) -> Iterator[str]:
    """Why it gets no requests."""
    if instance.draining:
        yield "gets no requests: in maintenance mode"
    if instance.health is Health.CRITICAL:
        yield "gets no requests: critical in Consul"
    if instance.silent and instance.usable_last:
        yield "gets no requests: its sidecar does not answer"
    if instance.usable and not _leads(service, instance):
        yield f"gets no requests: mode strict, and it is not primary ({_primary(service)})"


def _mode_reasons(service: ServiceCatalog, instance: Instance) -> Iterator[str]:
    """What the mode has to do with it."""
    if instance.hands_over:
        yield "taken out of service: comes last until another instance serves"
        return
    match service.policy.mode:
        case Mode.ACTIVE_ACTIVE:
            yield "mode active-active: all usable instances share the requests"
        case Mode.WEIGHTED if instance.id in dict(service.policy.weights):
            yield "mode weighted: the policy gives it a weight"
        case Mode.WEIGHTED:
            yield "mode weighted: comes after the instances that have a weight"
        case _ if _leads(service, instance):
            yield f"it is the primary of epoch {service.leader.epoch if service.leader else 0}"
        case _:
            yield f"stands by: usable, and {_primary(service)}"


def _release_reasons(
    service: ServiceCatalog, cluster: str, instance: Instance, *, first: bool
) -> Iterator[str]:
    """What the release has to do with it."""
    release = service.policy.release
    if release is None or not has_release(service.policy):
        if is_release(cluster):
            yield "the release has ended: it gets no new requests, and finishes those it has"
        return
    if release.rolled_back:
        yield f"the release is rolled back: {release.rolled_back}"
    percent = share(service.policy)
    belongs = is_released(instance, release)
    side = is_release(cluster)
    ours = f"{percent if side else 100 - percent} % of the requests"
    reasons = f"{ours} are for {'the release' if side else 'the other instances'}"
    if belongs is side:
        yield f"{reasons}, and this is one of them"
        return
    verb = "belongs" if belongs else "does not belong"
    place = (
        "stands in, as there is no other instance" if first else "comes after all other instances"
    )
    yield reasons
    yield f"it {verb} to the release: here it {place}"


def _locality_reasons(service: ServiceCatalog, instance: Instance, zone: str) -> Iterator[str]:
    if instance.datacenter:
        yield f"in datacenter {instance.datacenter}: comes after local instances"
    if service.policy.locality.prefer_zone and zone and instance.zone != zone:
        named = instance.zone or "no zone"
        yield f"in {named}, with Envoy in {zone}: comes after instances in that zone"


def _silence_reasons(instance: Instance) -> Iterator[str]:
    if instance.silent:
        yield "its sidecar does not answer: used as there is no other instance"


def _model_reasons(
    service: ServiceCatalog, assignment: Assignment, instance: Instance
) -> Iterator[str]:
    """Which models' requests it gets."""
    if not service.policy.by_model:
        return
    listed = dict(assignment.models).get(instance.id, ())
    yield f"routing by-model: gets requests for {', '.join(listed) or 'no model'}"
    for model, reason in instance.unusable:
        if model not in listed:
            yield f"gets no requests for {model}: {reason}"


def _weight_reasons(instance: Instance) -> Iterator[str]:
    if instance.health is Health.WARNING:
        yield f"in warning: {instance.percent} % of its usual weight"
