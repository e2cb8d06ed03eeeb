"""Which endpoint gets requests first: a service's instances, arranged by priority."""

from dataclasses import dataclass

from sidecar.xds.catalog import Health, Instance, Leader, ServiceCatalog

_HEALTHS = tuple(Health)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Endpoints in order of preference.

    `priorities` may get new requests: the first one gets them all while it is healthy. `withdrawn`
    get none. They are listed so that Envoy goes on counting the requests in flight on them: one
    that is dropped and comes back counts from 0, and its drain would miss what outlived its
    absence. A critical instance may come back too, so it is treated like one that drains.
    """

    service: str
    priorities: tuple[tuple[Instance, ...], ...] = ()
    withdrawn: tuple[Instance, ...] = ()

    @property
    def routable(self) -> frozenset[str]:
        """Ids of the instances that may get new requests."""
        return frozenset(instance.id for group in self.priorities for instance in group)

    def find(self, instance_id: str) -> Instance | None:
        """The listed instance of that id."""
        listed = (*self.withdrawn, *(i for group in self.priorities for i in group))
        return next((instance for instance in listed if instance.id == instance_id), None)


def assign(service: ServiceCatalog) -> Assignment:
    """Arrange a service's instances.

    The leader alone comes first and the other usable ones second; without a usable leader all of
    them come first. Priorities have no gaps: Envoy refuses them.
    """
    listed = _distinct(service.instances, service.leader)
    usable = tuple(instance for instance in listed if instance.usable)
    groups = (
        tuple(instance for instance in usable if _leads(instance, service.leader)),
        tuple(instance for instance in usable if not _leads(instance, service.leader)),
    )
    return Assignment(
        service=service.name,
        priorities=tuple(group for group in groups if group),
        withdrawn=tuple(instance for instance in listed if not instance.usable),
    )


def _distinct(instances: tuple[Instance, ...], leader: Leader | None) -> tuple[Instance, ...]:
    """One instance per address, sorted by id.

    Envoy counts an endpoint listed twice in both places. Of several entries for one address all
    but one are out of date: usable ones are believed first, and the leader first of all.
    """
    by_endpoint: dict[tuple[str, int], Instance] = {}
    for instance in sorted(instances, key=lambda found: _rank(found, leader)):
        by_endpoint.setdefault(instance.endpoint, instance)
    return tuple(sorted(by_endpoint.values(), key=lambda instance: instance.id))


def _rank(instance: Instance, leader: Leader | None) -> tuple[bool, bool, bool, int, str]:
    return (
        not instance.usable,
        not instance.draining,  # of two that are not usable: somebody waits for this one
        not _leads(instance, leader),
        _HEALTHS.index(instance.health),
        instance.id,
    )


def _leads(instance: Instance, leader: Leader | None) -> bool:
    return leader is not None and instance.id == leader.instance
