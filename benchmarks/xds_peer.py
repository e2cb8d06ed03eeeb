"""The baseline of the control plane: an Envoy that follows the same Consul through DNS.

This is Envoy with Consul without a control plane: STRICT_DNS on the service's name,
resolved every second, over TCP because a thousand addresses fit no datagram. It gets addresses
only: no priorities, weights, drains or ports.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.xds_parts import SERVICE, TRITON_PORT, Program, run_envoy

REFRESH = 1.0  # seconds between two queries


@contextmanager
def running(folder: Path, admin: int, dns: int) -> Iterator[Program]:
    """Run it during the context."""
    program = run_envoy(folder, "peer", _bootstrap(admin, dns))
    try:
        yield program
    finally:
        program.end()


def _bootstrap(admin: int, dns: int) -> dict[str, Any]:
    name = f"{SERVICE}.service.consul"
    endpoint = {"endpoint": {"address": _address(name, TRITON_PORT)}}
    resolver = {
        "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3."
        "CaresDnsResolverConfig",
        "resolvers": [_address("127.0.0.1", dns)],
        "dns_resolver_options": {
            "use_tcp_for_dns_lookups": True,
            "no_default_search_domain": True,
        },
    }
    cluster = {
        "name": SERVICE,
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_ONLY",
        "dns_refresh_rate": f"{REFRESH:g}s",
        "typed_dns_resolver_config": {
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": resolver,
        },
        "load_assignment": {
            "cluster_name": SERVICE,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    }
    return {
        "admin": {"address": _address("127.0.0.1", admin)},
        "static_resources": {"clusters": [cluster]},
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
