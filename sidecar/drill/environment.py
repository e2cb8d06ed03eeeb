"""Where drills and benchmarks run: the machine, and the versions of the parts.

Acts: os, time.
"""

import json
import os
import platform
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from sidecar.drill.record import Environment
from sidecar.drill.stage import http
from sidecar.local.meshfile import Mesh
from sidecar.runtime.timestamps import timestamp


@dataclass(frozen=True, slots=True)
class Surroundings:
    """A mesh in a few words, and the versions of its parts by program, as far as they are known."""

    mesh: str
    versions: dict[str, str] = field(default_factory=dict)


def machine() -> str:
    """The machine, in words."""
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{_processor()}, {os.cpu_count()} cores, {system}"


async def versions(mesh: Mesh) -> dict[str, str]:
    """The versions of a mesh's parts.

    Raises:
        SidecarError: one does not answer.
    """
    consul = json.loads(await http.consul(mesh, "GET", "agent/self"))
    envoy = json.loads(await http.request("GET", f"http://{mesh.envoy.admin}/server_info"))
    return {"Consul": consul["Config"]["Version"], "Envoy": envoy["version"].split("/")[1]}


async def of_mesh(mesh: Mesh) -> Surroundings:
    """A local mesh or a cluster.

    Raises:
        SidecarError: a part of the mesh does not answer.
    """
    return Surroundings(f"{len(mesh.instances)} instances", await versions(mesh))


def environment(about: Surroundings, seed: int, load: str) -> Environment:
    """What a record says about where its runs were made, and by which command."""
    command = ["triton-sidecar", *sys.argv[1:]]
    return Environment(
        began=timestamp(time.time()),
        command=shlex.join(command),
        machine=machine(),
        mesh=about.mesh,
        seed=seed,
        load=load,
        versions=about.versions,
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
