"""Hosts with a Triton each, an edge, and Consul, in network namespaces; a design runs on them.

The layout is that of the clusters of this project's drills, so that the Tritons, their models and
Consul are the same for every design. A program that dies is started again after a second.
"""

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from benchmarks.peers import programs
from benchmarks.peers.design import EDGE, FOLDER, VIRTUAL, Design, for_host
from sidecar.drill.cluster.cleanup_on_exit import cleanup_on_exit
from sidecar.drill.cluster.layout import Consul, Layout, build, named
from sidecar.drill.cluster.network_namespaces import NetworkNamespaces, network_namespaces
from sidecar.drill.cluster.supervisor import Supervisor, supervise
from sidecar.drill.injections.processes import stubs
from sidecar.drill.misbehaving_models import STREAM, UNARY
from sidecar.health.canary.definition import Canary
from sidecar.local import assets, launch
from sidecar.local.meshfile import write_whole
from sidecar.local.planning import models
from sidecar.local.planning.plan import MeshOptions, Part, Probe
from sidecar.local.programs import parts
from sidecar.runtime.errors import Unavailable
from sidecar.settings import canaries
from sidecar.settings.tables.canary import CanarySettings

ROOT = Path(__file__).parents[2]
SESSION_TTL = "15s"  # the default, which clusters of tests shorten
DNS = 8600
LOADING = 20  # seconds that models take to load, as large ones do
_PEERLESS = ("sidecar", "xds", "envoy")  # parts that only this project has
_DESIGN = "design-"  # what the names of its parts begin with
_SERVERS = 3  # of Consul
_START = 120.0
_ASKED = tuple(ROOT / "triton_models" / name for name in (UNARY, STREAM))
_SERVED = (*_ASKED, ROOT / "tests" / "support" / "triton_models" / "mortal")
_STAND_INS = FOLDER / "stand_ins"


class Hosts:
    """What runs, and what can be done to it. Hosts are numbers, from 0."""

    def __init__(
        self,
        design: Design,
        layout: Layout,
        spaces: NetworkNamespaces,
        parts: Mapping[str, Supervisor],
    ) -> None:
        self.design, self.layout, self._spaces, self._parts = design, layout, spaces, parts
        self.folder = layout.mesh.options.folder
        self.env = {**layout.parts[0][1].env, "PYTHONPATH": str(ROOT)}
        self.questions = questions()

    @property
    def reference(self) -> str:
        """The address of a Triton whose answers count as right before anything is injected."""
        return f"{self.layout.address('host-1')}:8001"

    def enter(self, where: str) -> tuple[str, ...]:
        """What to put before a command so that it runs in a namespace."""
        return self._spaces.enter(where)

    def send(self, part: str, number: signal.Signals) -> None:
        """Send a signal to a part and all that it started; nothing happens while it is dead."""
        self._parts[part].send_to_all(number)

    @staticmethod
    def python(*arguments: str) -> tuple[str, ...]:
        """The command of a Python program of this project."""
        return sys.executable, *arguments

    def servers_away(self) -> None:
        """Kill Consul's servers, and keep them away."""
        for name, part in self._parts.items():
            if name.startswith("server"):
                part.hold_down()
                part.send_to_all(signal.SIGKILL)

    def servers_back(self) -> None:
        """Undo `servers_away`."""
        for part in self._parts.values():
            part.release()

    def cut(self, number: int) -> None:
        """Drop every packet between a host and the edge."""
        self._spaces.cut(f"host-{number}", "data")

    def join(self, number: int) -> None:
        """Undo `cut`."""
        self._spaces.join(f"host-{number}", "data")

    def stubs(self, number: int) -> list[int]:
        """The processes in which a Triton runs its models."""
        group = self._parts[f"triton-{number}"].pid
        return [pid for folder in _SERVED for pid in stubs(group, folder.name)] if group else []

    def tell(self, number: int, **control: object) -> None:
        """Have the models of a Triton show a fault; see staging.py next to the model."""
        for model in (UNARY, STREAM):
            path = self.folder / f"triton-{number}" / "models" / model / ".control.json"
            write_whole(path, json.dumps(control))

    async def switch_over(self, number: int) -> str:
        """Do what an operator of the design does before maintenance of a host; gives its output.

        Raises:
            Unavailable: the command failed.
        """
        where = self.design.switchover_at or f"host-{number}"
        return await self.command(where, *self.design.switchover)

    async def command(self, where: str, *argv: str) -> str:
        """The output of a command in a namespace, in the folder of the design's files there.

        Raises:
            Unavailable: it failed.
        """
        process = await asyncio.create_subprocess_exec(
            *self.enter(where),
            *argv,
            cwd=_place(self.folder, where),
            env=_environment(self.folder, self.env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise Unavailable(f"{' '.join(argv)}: {said.decode(errors='replace').strip()[-500:]}")
        return said.decode(errors="replace")

    async def primary(self) -> int:
        """The host that gets the traffic: the primary, or the one with the address, else host-0.

        Raises:
            Unavailable: there is none.
        """
        if self.design.address == VIRTUAL:
            return await self._with_address(VIRTUAL.partition(":")[0])
        if not self.design.ours:
            return 0
        for entry in await self._passing():
            if "primary" in entry["Service"]["Tags"]:
                return int(entry["Service"]["ID"].rpartition("-")[2])
        raise Unavailable("no instance is primary")

    async def _with_address(self, address: str) -> int:
        for number in range(self.design.hosts):
            if f"inet {address}/" in await self.command(f"host-{number}", "ip", "address"):
                return number
        raise Unavailable(f"no host has the address {address}")

    def hold_design(self) -> None:
        """Do not start the design yet: a watcher would take starting Tritons for dead ones."""
        for name, part in self._parts.items():
            if name.startswith(_DESIGN):
                part.hold_down()

    async def until_up(self) -> None:
        """Wait until every Triton is ready, and in Consul if the design uses it; start the design.

        Raises:
            Unavailable: that takes too long.
        """
        await self._until(self._missing)
        for part in self._parts.values():
            part.release()
        await self._until(self._missing_primary)

    async def _until(self, missing: Callable[[], Awaitable[str]]) -> None:
        deadline = asyncio.get_running_loop().time() + _START
        while why := await missing():
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"not up after {_START:g} s: {why}; logs: {self.folder}/logs")
            await asyncio.sleep(0.5)

    async def _missing_primary(self) -> str:
        try:
            await self.primary()
        except Unavailable as error:
            return str(error)
        return ""

    async def _missing(self) -> str:
        ready = "http://{}:8000/v2/health/ready"
        try:
            for host in named("host", self.design.hosts):
                url = ready.format(self.layout.address(host))
                await self.command(EDGE, "curl", "-fsS", "-m", "2", url)
            if self.design.consul and len(found := await self._passing()) < self.design.hosts:
                return f"{len(found)} instances pass"
        except Unavailable as error:
            return str(error)
        return ""

    async def _passing(self) -> list[dict[str, dict[str, str]]]:
        url = "http://127.0.0.1:8500/v1/health/service/triton?passing"
        found: list[dict[str, dict[str, str]]] = json.loads(
            await self.command(EDGE, "curl", "-fsS", "-m", "2", url)
        )
        return found

    async def write_pids(self) -> None:
        """Keep the pid of each Triton in a file, until cancelled."""
        while True:
            for number in range(self.design.hosts):
                pid = self._parts[f"triton-{number}"].pid
                text = "" if pid is None else str(pid)
                write_whole(self.folder / "run" / f"triton-{number}.pid", text)
            await asyncio.sleep(0.1)


def questions() -> tuple[Canary, ...]:
    """What clients ask, and the answers that are right."""
    found = models.find(_ASKED, demo=False)
    return tuple(
        canaries.build(name, CanarySettings.model_validate(source.canary))
        for name, source in found.items()
    )


@asynccontextmanager
async def hosts(design: Design, folder: Path) -> AsyncIterator[Hosts]:
    """Hosts on which a design runs while the context lasts; logs stay in the empty `folder`.

    Raises:
        PartMissing: a program is not here, or namespaces cannot be had.
        Unavailable: something does not come up.
    """
    layout = _layout(design, folder)
    _write(design, layout)
    prefixes = [part.shm_prefix for _, part in layout.parts if part.shm_prefix]
    async with AsyncExitStack() as stack:
        stack.enter_context(cleanup_on_exit(layout.mesh.id, prefixes))
        spaces = await stack.enter_async_context(network_namespaces(layout.members))
        placed = [
            replace(part, argv=(*spaces.enter(where), *part.argv)) for where, part in layout.parts
        ]
        running = Hosts(design, layout, spaces, {part.name: Supervisor(part) for part in placed})
        running.hold_design()
        for work in (supervise(running._parts.values()), running.write_pids()):
            stack.push_async_callback(_end, asyncio.create_task(work))
        await running.until_up()
        yield running


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _layout(design: Design, folder: Path) -> Layout:
    options = MeshOptions(
        folder=folder.absolute(),
        instances=design.hosts,
        models=_SERVED,
        demo_models=False,
    )
    consul = assets.folder("consul")
    texts = (consul / "server.hcl").read_text(), (consul / "client.hcl").read_text()
    agents = Consul(_SERVERS, *texts)
    found, sources = launch.find_programs(), launch.read_sources(options)
    settings = {"election": {"session_ttl": SESSION_TTL}}
    mesh = secrets.token_hex(4)
    whole = build(mesh, options, found, sources, agents, os.environ, settings)
    kept = tuple((where, part) for where, part in whole.parts if _wanted(design, part.name))
    kept = tuple((where, _registered(design, folder, where, part)) for where, part in kept)
    files = dict(whole.files)
    dns = folder.absolute() / "agent-edge" / "here.json"
    files[dns] = json.dumps(
        (told := json.loads(files[dns])) | {"ports": told["ports"] | {"dns": DNS}}
    )
    return replace(whole, parts=(*kept, *_own(design, whole)), files=files)


def _wanted(design: Design, part: str) -> bool:
    if part.startswith("triton"):
        return True
    return design.ours or (design.consul and not part.startswith(_PEERLESS))


def _registered(design: Design, folder: Path, where: str, part: Part) -> Part:
    """An agent of a host that registers the Triton there, for the designs that follow Consul."""
    if design.ours or not part.name.startswith("agent-") or not where.startswith("host"):
        return part
    file = _place(folder.absolute(), where) / "triton.json"
    return replace(part, argv=(*part.argv, f"-config-file={file}"))


def _own(design: Design, layout: Layout) -> list[tuple[str, Part]]:
    """The parts that are the design's."""
    folder = layout.mesh.options.folder
    env = _environment(folder, layout.parts[0][1].env)
    return [
        (
            one.where,
            Part(
                name=f"{_DESIGN}{one.name}",
                kind="envoy",
                argv=one.argv,
                env=env,
                cwd=_place(folder, one.where),
                log=folder / "logs" / f"{one.name}.log",
                address=design.address,
                probe=Probe("tcp", design.address),
            ),
        )
        for one in design.processes
    ]


def _place(folder: Path, where: str) -> Path:
    return folder / "design" / where


def _environment(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    own = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "RUN": str(folder / "run")}
    return {**env, **own, "PYTHONPATH": str(ROOT)}


def _write(design: Design, layout: Layout) -> None:
    folder = layout.mesh.options.folder
    for path, text in layout.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for place, target in layout.mesh.links.items():
        place.symlink_to(target)
    for place, model in layout.mesh.copies.items():
        shutil.copytree(model, place, ignore=shutil.ignore_patterns("__*__"))
    (folder / "run").mkdir()
    _write_commands(folder / "bin")
    for where in design.namespaces:
        place_files(design, layout, where)


def place_files(design: Design, layout: Layout, where: str) -> None:
    """Put the design's files into the folder of a namespace, with the paths that it has there."""
    folder = layout.mesh.options.folder
    place = _place(folder, where)
    (place / "temp").mkdir(parents=True)
    number = int(where.rpartition("-")[2]) if where.startswith("host") else 0
    own = FOLDER / design.name
    for source in own.iterdir() if own.is_dir() else ():
        text = for_host(source.read_text(), number, layout.address(where))
        text = text.replace("/etc/keepalived", str(place))
        text = text.replace("/run/triton/tritonserver.pid", f"{folder}/run/triton-{number}.pid")
        (place / source.name).write_text(text)
        shutil.copymode(source, place / source.name)


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
