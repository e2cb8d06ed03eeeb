"""The configuration files of all parts of a local mesh. Pure."""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sidecar.local.planning import agent_config, toml
from sidecar.recovery.decision import FIXED_BY_RESTART
from sidecar.runtime.errors import ConfigError, words
from sidecar.verdict.evidence import Reason

if TYPE_CHECKING:
    from sidecar.local.planning.plan import Ports

_HOST = "127.0.0.1"
_STAGED = frozenset(
    {
        *(Reason.CANARY_WRONG_ANSWER, Reason.CANARY_TOO_LARGE, Reason.CANARY_TOO_SLOW),
        Reason.PORT_UNREACHABLE,  # the supervisor restarts ended parts anyway
    }
)
_RESTARTED = sorted(reason.value for reason in FIXED_BY_RESTART - _STAGED)


def consul(
    mesh_id: str,
    data: Path,
    ports: "Ports",
    version: agent_config.Version,
    acl: Mapping[str, object],
) -> str:
    """A single server that keeps its data, as JSON.

    Not `-dev`, which forgets everything at a restart, indexes included, unlike a real Consul. The
    epoch of an election is an index, so the mesh would take its new primary for an outdated one.
    """
    document = {
        **agent_config.settings(
            version,
            http=ports.consul_http,
            serf_lan=ports.consul_serf,
            server=ports.consul_server,
        ),
        "node_name": f"local-{mesh_id}",
        "server": True,
        "bootstrap_expect": 1,
        "data_dir": str(data),
        "bind_addr": _HOST,
        "client_addr": _HOST,
        "performance": {"raft_multiplier": 1},
        "connect": {"enabled": False},
        "log_level": "warn",
        **acl,
    }
    return json.dumps(document, indent=2) + "\n"


def sidecar(
    service: tuple[str, str],
    ports: "Ports",
    number: int,
    canaries: Mapping[str, Mapping[str, object]],
    token_file: Path | None,
    *,
    cold: bool = False,
) -> str:
    """The settings of `triton-sidecar run`, as TOML; `service` holds its name and the id."""
    own = ports.instances[number]
    name, instance_id = service
    return toml.dumps(
        {
            "service": {"name": name, "id": instance_id, "address": _HOST},
            "triton": {
                "grpc": f"{_HOST}:{own.triton_grpc}",
                "metrics": f"{_HOST}:{own.triton_metrics}",
                "models": list(canaries),
                "repository": "models",  # next to this file, as is the next one
                "state": "loaded.json",
            },
            "consul": _consul_client(ports, token_file),
            "listen": {
                "grpc": f"{_HOST}:{own.sidecar_grpc}",
                "metrics": f"{_HOST}:{own.sidecar_metrics}",
            },
            # The demo models answer in milliseconds, and stream a word at a time.
            "health": {"stall": "3s", "stream_stall": "5s"},
            "election": {
                # So that the mesh is up sooner.
                "settle": "1s",
                "standby": "cold" if cold else "hot",
                "unload": cold,
            },
            # Requests stuck in a hung Triton are retried elsewhere as soon as it is killed; the
            # supervisor restarts it. The same for a server that does not answer and for dead
            # stubs, but not for wrong answers, which people stage to look at them.
            "recovery": {
                "reasons": _RESTARTED,
                "hung_after": 0,
                # Nothing is stuck there: Envoy drops a peer that answers no pings. The whole
                # machine may be stalled.
                "unanswered_after": "15s",
                "budget": 60,
                "pause": "5s",
                "grace": "10s",
                "action": {"kind": "signal", "signal": "KILL", "listener": True},
            },
            "canary": canaries,
        }
    )


def xds(service: str, mesh_id: str, ports: "Ports", token_file: Path | None) -> str:
    """The settings of `triton-sidecar xds`, as TOML."""
    return toml.dumps(
        {
            "consul": _consul_client(ports, token_file),
            "xds": {
                "listen": f"{_HOST}:{ports.xds}",
                "services": [service],
                "id": f"triton-sidecar-xds-{mesh_id}",
                "metrics": f"{_HOST}:{ports.xds_metrics}",
                "state": "xds-state.json",  # next to this file
            },
            "envoy": {
                "listen": f"{_HOST}:{ports.envoy}",
                "admin": [f"{_HOST}:{ports.envoy_admin}"],
            },
        }
    )


def envoy(bootstrap: Mapping[str, Any], mesh_id: str, ports: "Ports") -> str:
    """Envoy's bootstrap for this mesh, as YAML.

    Raises:
        ConfigError: `bootstrap` has no admin address, or its ADS cluster cannot be found.
    """
    document: dict[str, Any] = deepcopy(dict(bootstrap))
    document["node"] = {**document.get("node", {}), "id": f"local-{mesh_id}", "cluster": "local"}
    try:
        _point(document["admin"]["address"], ports.envoy_admin)
        services = document["dynamic_resources"]["ads_config"]["grpc_services"]
        names = {service["envoy_grpc"]["cluster_name"] for service in services}
        clusters = document["static_resources"]["clusters"]
        [ads] = [cluster for cluster in clusters if cluster["name"] in names]
        for locality in ads["load_assignment"]["endpoints"]:
            for endpoint in locality["lb_endpoints"]:
                _point(endpoint["endpoint"]["address"], ports.xds)
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            "envoy/bootstrap.yaml: expected admin.address.socket_address, and one static cluster "
            f"that dynamic_resources.ads_config.grpc_services names: {words(error)}"
        ) from error
    return yaml.safe_dump(document, sort_keys=False)


def _point(address: dict[str, Any], port: int) -> None:
    address["socket_address"] |= {"address": _HOST, "port_value": port}


def _consul_client(ports: "Ports", token_file: Path | None) -> dict[str, object]:
    table: dict[str, object] = {"address": f"http://{_HOST}:{ports.consul_http}"}
    if token_file is not None:
        table["token_file"] = str(token_file)
    return table
