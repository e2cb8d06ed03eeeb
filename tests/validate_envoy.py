"""Has Envoy itself check the bootstrap and every kind of configuration that we generate.

`envoy --mode validate` looks at static configuration only, so what would come by ADS is rendered
into one: `python -m tests.validate_envoy`. Exit status 1 if Envoy refuses any of it.
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
from google.protobuf.json_format import MessageToDict

from sidecar.errors import ConfigError
from sidecar.local import parts
from sidecar.xds import resources
from sidecar.xds.catalog import Catalog, Health, Instance, Leader, ServiceCatalog
from sidecar.xds.policy import TrafficPolicy
from sidecar.xds.snapshot import build

BOOTSTRAP = Path(__file__).parent.parent / "envoy" / "bootstrap.yaml"

_A = Instance("a", "127.0.0.1", 8101, 9101)
_B = Instance("b", "10.0.0.2", 8101, 9101, Health.WARNING, weight=3)
_C = Instance("c", "fd00::3", 8101, 9101, draining=True)
_DEAD = Instance("d", "10.0.0.4", 8101, 9101, Health.CRITICAL)

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


def as_static(catalog: Catalog, policy: TrafficPolicy, bootstrap: dict[str, Any]) -> dict[str, Any]:
    """A whole configuration that needs no control plane: the same resources, in their places."""
    snapshot = build(catalog, policy)
    clusters = []
    for service in snapshot.services:
        cluster = _as_dict(resources.cluster(service, policy))
        del cluster["eds_cluster_config"]
        assignment = snapshot.assignments.get(service)
        empty = {"cluster_name": service}
        found = _as_dict(resources.load_assignment(assignment)) if assignment else empty
        clusters.append(cluster | {"type": "STATIC", "load_assignment": found})
    listener = _as_dict(resources.listener(policy))
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = _as_dict(resources.routes(snapshot.services, policy))
    config = deepcopy(bootstrap)
    del config["dynamic_resources"]
    config["static_resources"]["clusters"] += clusters
    config["static_resources"]["listeners"] = [listener]
    return config


def problems(envoy: Path, policy: TrafficPolicy | None = None) -> Iterator[str]:
    """What Envoy says about each configuration that it refuses, or warns about."""
    policy = policy or TrafficPolicy()
    bootstrap = yaml.safe_load(BOOTSTRAP.read_text())
    configs = {"bootstrap": bootstrap} | {
        name: as_static(catalog, policy, bootstrap) for name, catalog in CATALOGS.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, config in configs.items():
            path = Path(folder) / "envoy.json"
            path.write_text(json.dumps(config))
            command = [str(envoy), "--mode", "validate", "-l", "warning", "-c", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            said = (done.stdout + done.stderr).replace(f"configuration '{path}' OK", "").strip()
            if done.returncode != 0 or "[warning]" in said or "deprecated" in said:
                yield f"{name}: {said}"


def main() -> int:
    """Print what is wrong; the exit status."""
    try:
        found = list(problems(parts.find("envoy")))
    except ConfigError as error:
        found = [str(error)]
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print(f"envoy accepts the bootstrap and {len(CATALOGS)} generated configurations")
    return 1 if found else 0


def _as_dict(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)


if __name__ == "__main__":
    sys.exit(main())
