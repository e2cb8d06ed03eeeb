"""The hosts of a design: this project's cluster, less what only this project has, plus the design.

So the Tritons, their models and Consul are the same for every design.
"""

import json
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.peers import programs
from benchmarks.peers.design import FOLDER, Design, for_host, with_third_server
from sidecar.drill.cluster.layout import Consul, Layout, Overrides, build
from sidecar.drill.misbehaving_models import MORTAL, STREAM, UNARY
from sidecar.local import assets, launch
from sidecar.local.planning.plan import MeshOptions, Part, Probe
from sidecar.local.programs import parts

ROOT = Path(__file__).parents[2]
SERVED = (UNARY, STREAM, MORTAL)
LOADING = 20  # seconds that models take to load, as large ones do
DESIGN = "design-"  # what the names of a design's own parts begin with
_SESSION_TTL = "15s"  # the default, which clusters of drills shorten
_DNS = 8600
_PEERLESS = ("sidecar", "xds", "envoy")  # parts that only this project has
_SERVERS = 3  # of Consul
_PAIR = 2  # hosts
_STAND_INS = FOLDER / "stand_ins"
# What an agent reads beyond this project's settings, if the design has it, by where it runs.
_AGENT_FILES = {"host": ("agent.json", "triton.json"), "edge": ("agent.json", "clients.json")}
_SERVER_FILES = ("server.json",)


def place(folder: Path, where: str) -> Path:
    """The folder of the design's files in a namespace."""
    return folder / "design" / where


def environment(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """The environment of the design's programs, scripts and commands."""
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return {**env, "PATH": path, "RUN": str(folder / "run"), "PYTHONPATH": str(ROOT)}


def layout(design: Design, folder: Path) -> Layout:
    """What runs where.

    Raises:
        PartMissing: a program is not here.
    """
    served = tuple(assets.folder("triton_models") / name for name in SERVED)
    options = MeshOptions(
        folder=folder.absolute(), instances=design.hosts, models=served, demo_models=False
    )
    consul = assets.folder("consul")
    texts = (consul / "server.hcl").read_text(), (consul / "client.hcl").read_text()
    agents = Consul(_SERVERS, *texts)
    found, sources = launch.find_programs(), launch.read_sources(options)
    settings = Overrides({"election": {"session_ttl": _SESSION_TTL}})
    mesh = secrets.token_hex(4)
    return _with(design, build(mesh, options, found, sources, agents, os.environ, settings))


def _with(design: Design, whole: Layout) -> Layout:
    """A cluster's layout with a design in place of what only this project has."""
    folder = whole.mesh.options.folder
    kept = [
        (where, _configured(design, folder, where, part))
        for where, part in whole.parts
        if _wanted(design, part.name)
    ]
    dns = folder / "agent-edge" / "here.json"
    here = json.loads(whole.files[dns])
    here["ports"]["dns"] = _DNS
    return replace(
        whole,
        parts=(*kept, *_own(design, whole)),
        files={**whole.files, dns: json.dumps(here)},
        front=design.address,
    )


def _wanted(design: Design, part: str) -> bool:
    if part.startswith("triton"):
        return True
    return design.ours or (design.consul and not part.startswith(_PEERLESS))


def _configured(design: Design, folder: Path, where: str, part: Part) -> Part:
    """A Consul agent that reads the design's files as well, such as what registers its Triton."""
    if not part.name.startswith(("agent-", "server-")):
        return part
    names = _AGENT_FILES.get(where.partition("-")[0], _SERVER_FILES)
    own = [name for name in names if (FOLDER / design.name / name).is_file()]
    files = (f"-config-file={place(folder, where) / name}" for name in own)
    return replace(part, argv=(*part.argv, *files))


def _own(design: Design, whole: Layout) -> list[tuple[str, Part]]:
    """The parts that are the design's."""
    folder = whole.mesh.options.folder
    env = environment(folder, whole.parts[0][1].env)
    return [
        (
            one.where,
            Part(
                name=f"{DESIGN}{one.name}",
                kind="envoy",
                argv=one.argv,
                env=env,
                cwd=place(folder, one.where),
                log=folder / "logs" / f"{one.name}.log",
                address=design.address,
                probe=Probe("tcp", design.address),
            ),
        )
        for one in design.processes
    ]


# --- its files --------------------------------------------------------------------------------


def write(design: Design, made: Layout) -> None:
    """Write the design's files, and the commands that its scripts call."""
    folder = made.mesh.options.folder
    (folder / "run").mkdir()
    _write_commands(folder / "bin")
    servers = [one.name for one in made.members if one.name.startswith("server")]
    for where in (*design.namespaces, *servers):
        _write_files(design, made, where)


def _write_files(design: Design, made: Layout, where: str) -> None:
    """Put the design's files into the folder of a namespace, with the paths that it has there."""
    folder = made.mesh.options.folder
    target = place(folder, where)
    (target / "temp").mkdir(parents=True)
    number = int(where.rpartition("-")[2]) if where.startswith("host") else 0
    # The folder `ours` has only that of a variant in it.
    for source in filter(Path.is_file, (FOLDER / design.name).glob("*")):
        text = for_host(source.read_text(), number, made.address(where))
        if design.hosts > _PAIR:
            text = with_third_server(text)
        for folder_there in ("/etc/keepalived", "/etc/consul.d"):
            text = text.replace(folder_there, str(target))
        text = text.replace("/run/triton/tritonserver.pid", f"{folder}/run/triton-{number}.pid")
        (target / source.name).write_text(text)
        shutil.copymode(source, target / source.name)


def _write_commands(folder: Path) -> None:
    """The commands that the designs' scripts call: the programs, and stand-ins."""
    folder.mkdir()
    found = {**programs.provide(), "consul": parts.find("consul"), "envoy": parts.find("envoy")}
    for name, command in found.items():
        (folder / name).symlink_to(command)
    for stand_in in _STAND_INS.iterdir():
        shutil.copy(stand_in, folder / stand_in.name)
    own = folder / "triton-sidecar"
    own.write_text(f'#!/bin/sh\nexec {sys.executable} -m sidecar "$@"\n')
    own.chmod(0o755)
