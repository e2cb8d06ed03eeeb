"""The plan of a local mesh, with made-up programs and sources."""

from pathlib import Path
from typing import Any

from sidecar.local.planning.layout import build
from sidecar.local.planning.plan import (
    MODELS,
    MeshOptions,
    ModelSource,
    Plan,
    Ports,
    Programs,
    Sources,
)
from sidecar.local.processes.supervisor import Supervisor
from sidecar.local.programs.parts import TritonParts

BOOTSTRAP: dict[str, Any] = {
    "node": {"id": "here", "cluster": "there"},
    "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 9901}}},
    "dynamic_resources": {
        "ads_config": {"grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}
    },
    "static_resources": {
        "clusters": [
            {
                "name": "xds",
                "load_assignment": {
                    "endpoints": [
                        {
                            "lb_endpoints": [
                                {
                                    "endpoint": {
                                        "address": {
                                            "socket_address": {
                                                "address": "127.0.0.1",
                                                "port_value": 18000,
                                            }
                                        }
                                    }
                                }
                            ]
                        }
                    ]
                },
            }
        ]
    },
}
CANARY = {
    "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ['a "b" \\ \n ü']}],
    "expect": [{"output": "text", "equals": ["x"]}],
}
PROGRAMS = Programs(
    consul=Path("/opt/consul"),
    consul_version=(1, 8),
    envoy=Path("/opt/envoy"),
    triton=TritonParts(
        Path("/opt/tritonserver"), Path("/opt/backends"), (Path("/opt/lib"),), Path("/own/bin")
    ),
    python=Path("/venv/bin/python"),
    checkout=Path("/src"),
)
FOLDER = Path('/srv/a mesh "here"')
DEMO = {name: ModelSource(Path("/assets") / name, CANARY) for name in MODELS}


def make(*, folder: Path = FOLDER, instances: int = 3, acl: bool = False, **environ: str) -> Plan:
    options = MeshOptions(folder, instances, acl=acl)
    drawn = Ports.assign(range(20000, 20000 + Ports.needed(instances)))
    sources = Sources(BOOTSTRAP, DEMO)
    denied = {"acl": {"enabled": True}} if acl else {}
    return build("cafe", options, drawn, PROGRAMS, sources, {"PATH": "/bin", **environ}, denied)


async def nothing(supervisor: Supervisor) -> None:
    """The callback of a mesh that must not start."""
    raise AssertionError
