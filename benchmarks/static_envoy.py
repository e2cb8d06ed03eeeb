"""A handwritten Envoy configuration: both Tritons in a static file, and otherwise defaults."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from sidecar.local.meshfile import Mesh
from sidecar.local.planning import ports
from sidecar.local.planning.plan import Probe
from sidecar.local.processes import part_probe
from sidecar.local.programs import parts
from sidecar.runtime.addresses import split_address

DESCRIPTION = (
    "both Tritons by round robin, grpc.health.v1 of Triton asked every 5 s "
    "(timeout 1 s, out after 3 failures), one retry on connect-failure, refused-stream and "
    "unavailable, all else by default"
)
_TYPES = "type.googleapis.com/envoy.extensions."
Table = dict[str, Any]


@asynccontextmanager
async def running(mesh: Mesh) -> AsyncIterator[str]:
    """Run it with the Tritons of a mesh during the context; gives the address for clients."""
    with ports.reserve(2) as (port, admin), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "envoy.yaml"
        path.write_text(yaml.safe_dump(_config(mesh, port, admin)), encoding="utf-8")
        with (Path(folder) / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                parts.find("envoy"),
                *("-c", str(path), "--disable-hot-restart", "--concurrency", "2"),
                stdout=log,
                stderr=log,
            )
        try:
            async with asyncio.timeout(30):
                await part_probe.until(Probe("http", f"http://127.0.0.1:{admin}/ready"))
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            await process.wait()


def _config(mesh: Mesh, port: int, admin: int) -> Table:
    return {
        "admin": {"address": _address("127.0.0.1", admin)},
        "static_resources": {"listeners": [_listener(port)], "clusters": [_cluster(mesh)]},
    }


def _listener(port: int) -> Table:
    retry = {"retry_on": "connect-failure,refused-stream,unavailable", "num_retries": 1}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "triton", "retry_policy": retry}}
    manager = {
        "@type": f"{_TYPES}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "route_config": {
            "virtual_hosts": [{"name": "triton", "domains": ["*"], "routes": [route]}]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPES}filters.http.router.v3.Router"},
            }
        ],
    }
    name = "envoy.filters.network.http_connection_manager"
    return {
        "name": "ingress",
        "address": _address("127.0.0.1", port),
        "filter_chains": [{"filters": [{"name": name, "typed_config": manager}]}],
    }


def _cluster(mesh: Mesh) -> Table:
    http2 = {
        "@type": f"{_TYPES}upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoints = [
        {"endpoint": {"address": _address(*split_address(instance.triton.grpc))}}
        for instance in mesh.instances
    ]
    return {
        "name": "triton",
        "type": "STATIC",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2
        },
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "5s",
                "unhealthy_threshold": 3,
                "healthy_threshold": 1,
                "grpc_health_check": {},
            }
        ],
        "load_assignment": {
            "cluster_name": "triton",
            "endpoints": [{"lb_endpoints": endpoints}],
        },
    }


def _address(host: str, port: int) -> Table:
    return {"socket_address": {"address": host, "port_value": port}}
