"""Applies rollbacks to the catalog before it is published. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from sidecar.traffic.guard import Rollback
from sidecar.xds.catalog.catalog import Catalog, ServiceCatalog


def with_rollbacks(catalog: Catalog, rollbacks: Mapping[str, Rollback]) -> Catalog:
    """The catalog to publish: a rolled-back release gets no requests.

    Args:
        catalog: with the policies as ordered.
        rollbacks: by service; one of a release that is no longer ordered changes nothing.
    """
    services = tuple(_rolled_back(each, rollbacks.get(each.name)) for each in catalog.services)
    return replace(catalog, services=services)


def _rolled_back(service: ServiceCatalog, rollback: Rollback | None) -> ServiceCatalog:
    if rollback is None or not rollback.applies(service.policy.release):
        return service
    return replace(service, policy=rollback.apply_to(service.policy))
