"""The catalog as it is to be published where a release was rolled back. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from sidecar.traffic.guard import Rollback
from sidecar.xds.catalog.catalog import Catalog, ServiceCatalog


def with_rollbacks(catalog: Catalog, rollbacks: Mapping[str, Rollback]) -> Catalog:
    """The catalog as it is to be published: what was rolled back gets no requests.

    Args:
        catalog: with the policies as people have ordered them.
        rollbacks: by service; one about another release than is ordered changes nothing.
    """
    services = tuple(_rolled_back(each, rollbacks.get(each.name)) for each in catalog.services)
    return replace(catalog, services=services)


def _rolled_back(service: ServiceCatalog, rollback: Rollback | None) -> ServiceCatalog:
    if rollback is None or not rollback.applies(service.policy.release):
        return service
    return replace(service, policy=rollback.apply_to(service.policy))
