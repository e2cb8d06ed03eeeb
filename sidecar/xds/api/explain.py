"""Why an instance gets requests, or gets none: what decided it, in sentences."""

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
    """What is believed about a service beyond, or against, what Consul shows.

    `missing` are kept though Consul does not show them, since when (Unix seconds); `serving` of
    those say that they serve. `left_out` are entries that cannot be used, and why. `stale` is True
    while what is published is from the disk, and `refused` why a newer policy is ignored.
    """

    missing: Mapping[str, float] = field(default_factory=dict)
    serving: frozenset[str] = frozenset()
    left_out: Mapping[str, str] = field(default_factory=dict)
    stale: bool = False
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """An instance in one cluster; without a placement it is not listed there."""

    cluster: str
    placement: Placement | None
    why: tuple[str, ...]


def believed(watch: "ServiceWatch") -> RetainedState:
    """What the watches of a service believe."""
    missing = {name: float(at) for each in watch.watches for name, at in each.missing.items()}
    return RetainedState(
        missing=missing,
        serving=frozenset(
            name for each in watch.watches for name in each.missing if each.says_it_serves(name)
        ),
        left_out={out.id: out.reason for each in watch.watches for out in each.left_out},
        stale=watch.stale,
        refused=watch.ordered.refused if watch.ordered else "",
    )


def explain(
    service: ServiceCatalog,
    assignments: Mapping[str, Assignment],
    belief: RetainedState,
    instance_id: str,
    zone: str = "",
    lingering: Collection[str] = (),
) -> tuple[Explanation, ...]:
    """Why an instance has its place in each of a service's clusters; empty if it is unknown.

    Args:
        service: what the snapshot was built of.
        assignments: those of the snapshot, by cluster.
        belief: what is believed about the service.
        instance_id: whose place it is.
        zone: the control plane's own.
        lingering: clusters to which no route leads any more.
    """
    found = next((each for each in service.instances if each.id == instance_id), None)
    held = tuple(_held(instance_id, belief))
    if found is None:
        known = instance_id in belief.missing or instance_id in belief.left_out
        return (Explanation(service.name, None, held),) if known else ()
    if not service.settled:
        unknown = ("too little is known about the service to publish its endpoints",)
        return (Explanation(service.name, None, unknown),)
    return tuple(
        _explained(service, assignment, found, zone, held, lingers=name in lingering)
        for name, assignment in assignments.items()
        if service_of(name) == service.name
    )


def _held(instance_id: str, belief: RetainedState) -> Iterator[str]:
    """What belief has to do with it."""
    if (at := belief.missing.get(instance_id)) is not None:
        says = (
            "it reports that it serves" if instance_id in belief.serving else "it does not answer"
        )
        yield f"kept although it vanished from the catalog at {timestamp(at)}: {says}"
    if reason := belief.left_out.get(instance_id):
        yield f"its entry in the catalog: {reason}"
    if belief.stale:
        yield "Consul has not confirmed it since this control plane started"
    if belief.refused:
        yield f"the policy in Consul is ignored: {belief.refused}"


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
    reasons = _nothing(service, instance) if place.priority is None else _rank(service, instance)
    told = [*reasons]
    if lingers and not is_release(assignment.cluster):
        told.append(
            "an earlier policy's cluster: it gets no new requests, and finishes those it has"
        )
    if place.priority is not None:
        told += _side(service, assignment.cluster, instance, first=place.priority == 0)
        told += _distance(service, instance, zone)
        told += _weight(instance)
        told += _silence(instance)
    return Explanation(assignment.cluster, place, (*told, *held))


def _leads(service: ServiceCatalog, instance: Instance) -> bool:
    return service.leader is not None and service.leader.instance == instance.id


def _primary(service: ServiceCatalog) -> str:
    if service.leader is None:
        return "there is no primary"
    return f"{service.leader.instance} is primary of epoch {service.leader.epoch}"


def _nothing(service: ServiceCatalog, instance: Instance) -> Iterator[str]:
    """Why it gets nothing."""
    if instance.draining:
        yield "gets no requests: in maintenance mode"
    if instance.health is Health.CRITICAL:
        yield "gets no requests: critical in Consul"
    if instance.silent and instance.usable_last:
        yield "gets no requests: its sidecar does not answer"
    if instance.usable and not _leads(service, instance):
        yield f"gets no requests: mode strict, and it is not primary ({_primary(service)})"


def _rank(service: ServiceCatalog, instance: Instance) -> Iterator[str]:
    """What the mode has to say."""
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


def _side(
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
    told = f"{ours} are for {'the release' if side else 'the other instances'}"
    if belongs is side:
        yield f"{told}, and this is one of them"
        return
    whose = "belongs" if belongs else "does not belong"
    place = (
        "stands in, as there is no other instance" if first else "comes after all other instances"
    )
    yield told
    yield f"it {whose} to the release: here it {place}"


def _distance(service: ServiceCatalog, instance: Instance, zone: str) -> Iterator[str]:
    if instance.datacenter:
        yield f"in datacenter {instance.datacenter}: comes after local instances"
    if service.policy.locality.prefer_zone and zone and instance.zone != zone:
        named = instance.zone or "no zone"
        yield f"in {named}, with Envoy in {zone}: comes after instances in that zone"


def _silence(instance: Instance) -> Iterator[str]:
    if instance.silent:
        yield "its sidecar does not answer: used as there is no other instance"


def _weight(instance: Instance) -> Iterator[str]:
    if instance.health is Health.WARNING:
        yield f"in warning: {instance.percent} % of its usual weight"
