"""Has Envoy validate the bootstrap and every kind of configuration that we generate.

`envoy --mode validate` reads static configuration only, so the resources of ADS are rendered into
one: `python -m tests.checks.validate_envoy`. The exit status is 1 if Envoy rejects any of it.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from google.protobuf.json_format import MessageToDict

from sidecar.local.programs import parts
from sidecar.runtime.errors import ConfigError
from sidecar.settings.tables.core import EnvoySettings
from sidecar.traffic.policy import (
    Admission,
    Affinity,
    Limits,
    Locality,
    Match,
    Mode,
    ModelRule,
    Release,
    Retry,
    RoutingMode,
    StatusCode,
    TrafficPolicy,
)
from sidecar.xds.catalog.catalog import Catalog, Health, Instance, Leader, ServiceCatalog
from sidecar.xds.config.capabilities import Capabilities
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE, Snapshot, build
from tests.support.traffic_policies import UINT32, YEAR

_MESSAGES: dict[str, Any] = {
    CLUSTER: cluster_pb2.Cluster,
    ENDPOINT: endpoint_pb2.ClusterLoadAssignment,
    LISTENER: listener_pb2.Listener,
    ROUTE: route_pb2.RouteConfiguration,
}
# The limits of the settings.
LIMITS = {
    "least settings": EnvoySettings(
        max_concurrent_streams=1,
        stream_idle_timeout=0.001,
        keepalive_interval=0.001,
        keepalive_timeout=0.001,
        per_connection_buffer_limit_bytes=16_384,
    ),
    "greatest settings": EnvoySettings(
        max_concurrent_streams=2**31 - 1,
        stream_idle_timeout=YEAR,
        quarantine=YEAR,
        keepalive_interval=YEAR,
        keepalive_timeout=YEAR,
        per_connection_buffer_limit_bytes=UINT32,
    ),
}
BOOTSTRAP = Path(__file__).parents[2] / "envoy" / "bootstrap.yaml"

_A = Instance(
    *("a", "127.0.0.1", 8101, 9101),
    capacity=64,
    zone="east",
    models=("qwen", "tiny"),
    unusable=(("qwen", "CANARY_FAILED"),),
)
_B = Instance("b", "10.0.0.2", 8101, 9101, Health.WARNING, weight=3, tags=("v2",))
_C = Instance("c", "fd00::3", 8101, 9101, draining=True)
_DEAD = Instance("d", "10.0.0.4", 8101, 9101, Health.CRITICAL, ill=True)

CATALOGS = {
    "nothing known yet": Catalog((ServiceCatalog("triton", settled=False),)),
    "no instances": Catalog((ServiceCatalog("triton"),)),
    "no leader": Catalog((ServiceCatalog("triton", (_A, _B, _DEAD)),)),
    "leader": Catalog((ServiceCatalog("triton", (_A, _B, _C), Leader("a", 7)),)),
    "all draining": Catalog((ServiceCatalog("triton", (_C,), Leader("c", 7)),)),
    "two services": Catalog(
        (
            ServiceCatalog("triton", (_A, _B), Leader("b", 9)),
            ServiceCatalog("vision.eu-1", (_C,)),
        )
    ),
}

POLICIES = {
    "strict": TrafficPolicy(mode=Mode.STRICT, retry=Retry(num_retries=0)),
    "strict, where requests wait": TrafficPolicy(
        mode=Mode.STRICT, affinity=Affinity("x-session", "x-sequence")
    ),
    "shared, with sessions": TrafficPolicy(
        mode=Mode.ACTIVE_ACTIVE,
        affinity=Affinity("x-session", "x-sequence"),
        retry=Retry(retryable_status_codes=tuple(StatusCode)),
        admission=Admission(("/inference.GRPCInferenceService/", "/a.b/C")),
        locality=Locality(prefer_zone=True, datacenters=("dc2",)),
    ),
    "weighted, with limits": TrafficPolicy(
        mode=Mode.WEIGHTED,
        weights=(("a", 3), ("b", 2)),
        limits=Limits(
            max_requests=10,
            retry_memory_bytes=2**31,
            per_try_idle_timeout=5.0,
            slow_start=30.0,
            max_stream_duration=600.0,
        ),
    ),
    "by model, with sequences": TrafficPolicy(
        mode=Mode.ACTIVE_ACTIVE,
        affinity=Affinity("x-session", "x-sequence"),
        routing=RoutingMode.BY_MODEL,
        models=(("chat", ModelRule("qwen", ("tiny", "none"))), ("gone", ModelRule("gone"))),
    ),
    "by model, strict": TrafficPolicy(mode=Mode.STRICT, routing=RoutingMode.BY_MODEL),
    "release": TrafficPolicy(
        release=Release(tag="v2", percent=10, sticky_header="x-user"),
        match=Match(("a.example",), ("/inference.", "/a.b/"), (("x-team", "vision"),)),
        retry=Retry(idempotent=False),
    ),
}


def read_bootstrap(*, two: bool = False) -> dict[str, Any]:
    """The bootstrap; with `two`, its lines commented out by `#2` add a second control plane."""
    text = BOOTSTRAP.read_text()
    found: dict[str, Any] = yaml.safe_load(text.replace("#2 ", "") if two else text)
    return found


def as_static(snapshot: Snapshot, bootstrap: dict[str, Any]) -> dict[str, Any]:
    """A static configuration with the same resources, which needs no control plane."""
    clusters = []
    for name, cluster in _dicts(snapshot, CLUSTER).items():
        del cluster["eds_cluster_config"]
        found = _dicts(snapshot, ENDPOINT).get(name, {"cluster_name": name})
        clusters.append(cluster | {"type": "STATIC", "load_assignment": found})
    [listener] = _dicts(snapshot, LISTENER).values()
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager = manager.get("value", manager)
    del manager["rds"]
    [manager["route_config"]] = _dicts(snapshot, ROUTE).values()
    config = deepcopy(bootstrap)
    del config["dynamic_resources"], config["layered_runtime"]
    config["static_resources"]["clusters"] += clusters
    config["static_resources"]["listeners"] = [listener]
    return config


def problems(envoy: Path, edge: Edge | None = None) -> Iterator[str]:
    """Envoy's output for each configuration that it rejects or warns about.

    Each is adapted to the richest set of capabilities, and one also to none.
    """
    bootstrap = read_bootstrap()
    snapshots = {name: build(catalog, edge or Edge()) for name, catalog in CATALOGS.items()}
    for name, policy in POLICIES.items():
        services = (
            ServiceCatalog("triton", (_A, _B, _C, _DEAD), Leader("a", 7), policy=policy),
            ServiceCatalog("other", (_B,), policy=policy),
        )
        snapshots[name] = build(Catalog(services, "east"), edge or Edge())
    for name, settings in LIMITS.items():
        snapshots[name] = build(CATALOGS["leader"], settings.edge)
    yield from rejections(envoy, "bootstrap", bootstrap)
    yield from rejections(envoy, "bootstrap, two control planes", read_bootstrap(two=True))
    for name, snapshot in snapshots.items():
        said = snapshot.adapted_to(Capabilities.CODEC_LIMITS)
        yield from rejections(envoy, name, as_static(said, bootstrap))
    yield from rejections(envoy, "plain", as_static(build(CATALOGS["leader"], Edge()), bootstrap))


def rejections(envoy: Path, name: str, config: dict[str, Any]) -> Iterator[str]:
    """Envoy's output for one configuration, if it rejects it or warns about it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "envoy.json"
        path.write_text(json.dumps(config))
        command = [str(envoy), "--mode", "validate", "-l", "warning", "-c", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    said = (done.stdout + done.stderr).replace(f"configuration '{path}' OK", "").strip()
    if done.returncode != 0 or "[warning]" in said or "deprecated" in said:
        yield f"{name}: {said}"


def main() -> int:
    """Print every problem; returns the exit status."""
    try:
        found = list(problems(parts.find("envoy")))
    except ConfigError as error:
        found = [str(error)]
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        count = len(CATALOGS) + len(POLICIES) + len(LIMITS)
        print(f"envoy accepts the bootstrap and {count + 1} generated configurations")
    return 1 if found else 0


def _dicts(snapshot: Snapshot, type_url: str) -> dict[str, dict[str, Any]]:
    """The resources of a type in the form of Envoy's configuration files, by name."""
    found = {}
    for name, resource in snapshot.of(type_url).items():
        message = _MESSAGES[type_url]()
        resource.body.Unpack(message)
        found[name] = MessageToDict(message, preserving_proto_field_name=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
