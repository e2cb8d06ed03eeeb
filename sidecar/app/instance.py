"""The instance of a sidecar, as its settings describe it."""

from sidecar.health import server as health_server
from sidecar.registry.registration import InstanceInfo
from sidecar.settings import SidecarSettings


def describe(settings: SidecarSettings) -> InstanceInfo:
    """The instance with its address, weight, tags and meta."""
    return InstanceInfo(
        id=settings.instance,
        service=settings.service.name,
        address=settings.service.address,
        port=settings.service_port,
        weight=settings.service.weight,
        tags=settings.service.tags,
        meta=tuple(sorted(settings.service.meta.items())),
        models=tuple(sorted(settings.triton.models)),
        sidecar=settings.listen.dialled,
        liveness=health_server.LIVENESS,
        forget_after=settings.service.forget_after,
        capacity=settings.service.capacity,
        zone=settings.service.zone or "",
    )
