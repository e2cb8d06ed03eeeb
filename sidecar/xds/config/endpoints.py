"""Assigns a service's instances to priorities: which endpoint gets requests first. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby

from sidecar.traffic.policy import Mode, Release, TrafficPolicy
from sidecar.xds.catalog.catalog import MAX_WEIGHT, WHOLE, Health, Instance, Leader, ServiceCatalog
from sidecar.xds.catalog.models import ModelsById
from sidecar.xds.config.no_healthy_upstream import waits

_HEALTHS = tuple(Health)

Rank = tuple[bool, bool, int, bool]
Group = tuple[Instance, ...]
PlacementKey = tuple[str, str]  # cluster, instance id


@dataclass(frozen=True, slots=True)
class Assignment:
    """A cluster's endpoints in order of preference.

    `priorities` may get new requests: the first gets all of them while it is healthy. Silent
    instances are among them only if no other is usable. `withdrawn` get none. They are listed so
    that Envoy keeps counting their requests in flight: one that is removed and returns counts from
    0, and its drain would miss requests that outlived its absence. A critical instance may return
    too, so it is treated like a draining one. With `waits`, requests that find no instance wait.
    `models` has those under which each instance is listed; empty if requests are not routed by
    model.
    """

    cluster: str
    priorities: tuple[Group, ...] = ()
    withdrawn: Group = ()
    waits: bool = False
    models: ModelsById = ()
    # Ids of the instances that may get new requests. Looked up often, for each Envoy.
    routable: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        routable = frozenset(instance.id for group in self.priorities for instance in group)
        object.__setattr__(self, "routable", routable)

    @property
    def listed(self) -> Group:
        """All instances, the withdrawn ones first."""
        return (*self.withdrawn, *(each for group in self.priorities for each in group))

    @property
    def spare(self) -> int:
        """How many routable instances each request has, at least: it may be for a rare model."""
        if not self.models:
            return len(self.routable)
        counts = Counter(
            model for name, models in self.models if name in self.routable for model in models
        )
        return min(counts.values(), default=0)

    @property
    def capacity(self) -> int | None:
        """Requests in flight that the listed instances declare; None if one declares nothing.

        Includes withdrawn ones: Envoy counts over the whole cluster, and what a former primary
        still works on must leave room for the new one.
        """
        declared = [instance.capacity for instance in self.listed]
        return sum(declared) if declared and all(declared) else None

    def find(self, instance_id: str) -> Instance | None:
        """The listed instance with that id."""
        return next((instance for instance in self.listed if instance.id == instance_id), None)


@dataclass(frozen=True, slots=True)
class Placement:
    """An instance's place in a cluster; `priority` is None if it gets no requests."""

    priority: int | None
    weight: int


def release_cluster(service: str) -> str:
    """The cluster that gets a release's share; no service can have that name."""
    return f"{service}~release"


def clusters_of(service: str) -> tuple[str, str]:
    """The clusters that a service may have, in any generation (cluster_names.py)."""
    return service, release_cluster(service)


def service_of(cluster: str) -> str:
    """A cluster's service, in any generation."""
    return cluster.partition("~")[0]


def is_release(cluster: str) -> bool:
    """Whether a cluster, in any generation, is for a release."""
    return cluster.split("~")[1:2] == ["release"]


def share(policy: TrafficPolicy) -> int:
    """Percent of a service's requests that go to its release."""
    return policy.release.share if policy.release and has_release(policy) else 0


def has_release(policy: TrafficPolicy) -> bool:
    """Whether there is a separate cluster for a release.

    Also for one without a share: its requests in flight at a rollback may need a retry, for which
    the cluster must still exist.
    """
    return policy.release is not None and policy.mode is not Mode.STRICT


def assign(service: ServiceCatalog, zone: str = "") -> Mapping[str, Assignment]:
    """Arrange a service's instances, for each of its clusters.

    Criteria, in this order: whether an instance belongs to the release, the service's mode, the
    datacenter, and the zone if the policy prefers its own. Both clusters list all instances: those
    of
    the other side come last, since a doubtful answer is better than none. Priorities have no gaps:
    Envoy rejects them.

    Args:
        service: the instances, the leader and the policy.
        zone: Envoy's zone.
    """
    scheme = _Scheme(service, zone)
    listed = tuple(map(scheme.weighed, _distinct(service.instances, service.leader)))
    usable, last = scheme.chosen(listed)
    chosen = {instance.id for instance in (*usable, *last)}
    withdrawn = tuple(instance for instance in listed if instance.id not in chosen)

    def arranged(cluster: str, released: bool) -> Assignment:
        groups = scheme.groups(usable, released) + scheme.groups(last, released)
        return Assignment(cluster, groups, withdrawn, waits(service.policy))

    found = {service.name: arranged(service.name, False)}
    if has_release(service.policy):
        name = release_cluster(service.name)
        found[name] = arranged(name, True)
    return found


def placements(assignments: Mapping[str, Assignment]) -> dict[PlacementKey, Placement]:
    """Each instance's placement in each cluster."""
    found = {}
    for cluster, assignment in assignments.items():
        for priority, group in enumerate(assignment.priorities):
            for each in group:
                found[cluster, each.id] = Placement(priority, each.weight)
        for each in assignment.withdrawn:
            found[cluster, each.id] = Placement(None, each.weight)
    return found


def in_use(service: ServiceCatalog) -> Group:
    """The instances that get requests now, on either side of a release, last resorts included."""
    usable, last = _Scheme(service, "").chosen(_distinct(service.instances, service.leader))
    return usable or last


def is_released(instance: Instance, release: Release | None) -> bool:
    """Whether the instance belongs to the release."""
    if release is None:
        return False
    if release.model_set:
        return instance.model_set == release.model_set
    return release.tag in instance.tags


class _Scheme:
    """The rules that arrange one service's instances."""

    def __init__(self, service: ServiceCatalog, zone: str) -> None:
        self._policy = service.policy
        self._leader = service.leader
        self._zone = zone
        self._weights = dict(service.policy.weights)
        # In hundredths, as in Consul, if they are small enough.
        fine = max(self._weights.values(), default=0) * WHOLE <= MAX_WEIGHT
        self._scale = WHOLE if fine else 1
        self._remote = {
            name: 1 + place for place, name in enumerate(self._policy.locality.datacenters)
        }

    def chosen(self, listed: Group) -> tuple[Group, Group]:
        """Those that may get requests, and those that get what no other instance can take."""
        usable = tuple(filter(self.eligible, listed))
        last = tuple(filter(self.hands_over, listed))
        if not (usable or last):
            last = tuple(filter(self.fell_silent, listed))
        return usable, last

    def eligible(self, instance: Instance) -> bool:
        """Whether it may get requests in this mode."""
        return instance.usable and self._admits(instance)

    def hands_over(self, instance: Instance) -> bool:
        """Whether it gets what no other instance can take, in this mode."""
        return instance.hands_over and not instance.usable and self._admits(instance)

    def _admits(self, instance: Instance) -> bool:
        return self._policy.mode is not Mode.STRICT or _leads(instance, self._leader)

    def fell_silent(self, instance: Instance) -> bool:
        """Whether it may get requests if no other instance is left: it was healthy when last seen.

        In mode strict a sidecar has to confirm that its claim to the role is valid.
        """
        return instance.usable_last and self._policy.mode is not Mode.STRICT

    def weighed(self, instance: Instance) -> Instance:
        """With the policy's weight, reduced in proportion while the instance is in WARNING."""
        weight = self._weights.get(instance.id)
        if self._policy.mode is not Mode.WEIGHTED or weight is None:
            return instance
        return replace(instance, weight=max(1, weight * self._scale * instance.percent // WHOLE))

    def groups(self, usable: Group, released: bool) -> tuple[Group, ...]:
        """Instances of its own side before those of the other one, and within a side by rank."""

        def place(instance: Instance) -> Rank:
            other = is_released(instance, self._policy.release) is not released
            return other, self._by_mode(instance), self._distance(instance), self._by_zone(instance)

        ordered = sorted(usable, key=place)  # stable: by id within a place
        return tuple(tuple(group) for _, group in groupby(ordered, key=place))

    def _by_mode(self, instance: Instance) -> bool:
        match self._policy.mode:
            case Mode.ACTIVE_ACTIVE:
                return False
            case Mode.WEIGHTED:
                return instance.id not in self._weights
            case _:
                return not _leads(instance, self._leader)

    def _distance(self, instance: Instance) -> int:
        """Local instances first, then the datacenters in the policy's order."""
        if not instance.datacenter:
            return 0
        return self._remote.get(instance.datacenter, len(self._remote) + 1)

    def _by_zone(self, instance: Instance) -> bool:
        return self._policy.locality.prefer_zone and instance.zone != self._zone != ""


def _distinct(instances: Iterable[Instance], leader: Leader | None) -> Group:
    """One instance per address, sorted by id.

    Envoy counts an endpoint listed twice in both places. Of several entries for one address all but
    one are outdated: usable ones take precedence, and the leader over all.
    """
    by_endpoint: dict[tuple[str, int], Instance] = {}
    for instance in sorted(instances, key=lambda found: _credit(found, leader)):
        by_endpoint.setdefault(instance.endpoint, instance)
    return tuple(sorted(by_endpoint.values(), key=lambda instance: instance.id))


def _credit(instance: Instance, leader: Leader | None) -> tuple[bool, bool, bool, bool, int, str]:
    return (
        not instance.usable,
        not instance.draining,  # of two unusable ones: a drain waits for this one
        not _leads(instance, leader),
        bool(instance.datacenter),
        _HEALTHS.index(instance.health),
        instance.id,
    )


def _leads(instance: Instance, leader: Leader | None) -> bool:
    return leader is not None and instance.id == leader.instance
