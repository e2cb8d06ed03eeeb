"""Which endpoint gets requests first: a service's instances, arranged by priority."""

from collections.abc import Iterable
from dataclasses import dataclass

from sidecar.xds.catalog import Instance, ServiceCatalog


@dataclass(frozen=True, slots=True)
class Assignment:
    """Endpoints in order of preference.

    `priorities` may get new requests: the first one gets them all while it is healthy. `draining`
    get none, and are listed so that Envoy still reports the requests in flight on them.
    """

    service: str
    priorities: tuple[tuple[Instance, ...], ...] = ()
    draining: tuple[Instance, ...] = ()

    @property
    def routable(self) -> frozenset[str]:
        """Ids of the instances that may get new requests."""
        return frozenset(instance.id for group in self.priorities for instance in group)

    def find(self, instance_id: str) -> Instance | None:
        """The listed instance of that id."""
        listed = (*self.draining, *(i for group in self.priorities for i in group))
        return next((instance for instance in listed if instance.id == instance_id), None)


def assign(service: ServiceCatalog) -> Assignment:
    """Arrange a service's instances.

    The leader alone comes first and the other usable ones second; without a usable leader all of
    them come first. Priorities have no gaps: Envoy refuses them.
    """
    usable = _distinct(instance for instance in service.instances if instance.usable)
    leader = service.leader.instance if service.leader else None
    groups = (
        tuple(instance for instance in usable if instance.id == leader),
        tuple(instance for instance in usable if instance.id != leader),
    )
    taken = {instance.endpoint for instance in usable}
    return Assignment(
        service=service.name,
        priorities=tuple(group for group in groups if group),
        draining=_distinct(
            instance
            for instance in service.instances
            if instance.draining and instance.endpoint not in taken
        ),
    )


def _distinct(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    """One instance per address: Envoy counts an endpoint listed twice in both places."""
    by_endpoint: dict[tuple[str, int], Instance] = {}
    for instance in instances:
        by_endpoint.setdefault(instance.endpoint, instance)
    return tuple(by_endpoint.values())
