"""Hosts with a Triton each, an edge, and Consul: a drill's stage on which a design runs.

A program that dies is started again after a second.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from benchmarks.peers import site
from benchmarks.peers.design import VIRTUAL, Design
from sidecar.drill.cluster import start
from sidecar.drill.cluster.layout import EDGE, TRITON, Layout, named, same_host
from sidecar.drill.cluster.network_namespaces import NetworkNamespaces
from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.cluster.supervisor import Supervisor
from sidecar.drill.injections import models
from sidecar.drill.load.process import Asked, Place, RunningLoad, load
from sidecar.drill.load.spec import LoadSpec
from sidecar.drill.misbehaving_models import STREAM, UNARY
from sidecar.health.canary.definition import Canary
from sidecar.local import assets
from sidecar.local.meshfile import Mesh, write_whole
from sidecar.local.planning import models as model_sources
from sidecar.local.planning.plan import instance_id
from sidecar.runtime.errors import Unavailable
from sidecar.settings import canaries
from sidecar.settings.tables.canary import CanarySettings

_START = 120.0
_ASKED = (UNARY, STREAM)


class Hosts(ClusterStage):
    """What runs, and what can be done to it. Its address for clients is the design's."""

    def __init__(
        self,
        design: Design,
        layout: Layout,
        namespaces: NetworkNamespaces,
        supervisors: Mapping[str, Supervisor],
        mesh: Mesh,
    ) -> None:
        super().__init__(layout, namespaces, supervisors, mesh)
        self.design = design
        self._env = site.environment(self.folder, layout.parts[0][1].env)
        self._questions = questions()
        # A watcher would take Tritons that still start for dead ones.
        self._own = [one for name, one in supervisors.items() if name.startswith(site.DESIGN)]
        for part in self._own:
            part.hold_down()

    async def begin(self) -> None:
        """Wait until every Triton is ready, and in Consul if the design uses it; start the design.

        Raises:
            Unavailable: that takes too long, or the design's setup failed.
        """
        await self._until(self._missing_triton)
        self._write_pids()
        for part in self._own:
            part.release()
        await self._until(self._missing_primary)
        if self.design.setup:
            await self.command(EDGE, *self.design.setup)
        for instance in self.now.instances:
            for model in _ASKED:
                models.write_control(self, instance.id, model, {"load_seconds": site.LOADING})

    def loaded(
        self, spec: LoadSpec, *, began: float, seed: int, cached: bool = False
    ) -> AbstractAsyncContextManager[RunningLoad]:
        """Put load on the design, from the edge, while the context lasts."""
        reference = f"{self.layout.address('host-1')}:{TRITON}"
        place = Place(self.log("clients"), self.namespaces.enter(EDGE), self._env)
        return load(
            spec,
            self.design.address,
            reference,
            place,
            seed=seed,
            began=began,
            asked=Asked(self._questions),
        )

    async def switch_over(self, instance: str) -> None:
        """Do what an operator of the design does before maintenance of an instance's host.

        Raises:
            Unavailable: the command failed.
        """
        where = self.design.switchover_at or same_host(instance, "host")
        await self.command(where, *self.design.switchover)

    async def command(self, where: str, *argv: str) -> str:
        """The output of a command in a namespace, in the folder of the design's files there.

        Raises:
            Unavailable: it failed.
        """
        process = await asyncio.create_subprocess_exec(
            *self.namespaces.enter(where),
            *argv,
            cwd=site.place(self.folder, where),
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise Unavailable(f"{' '.join(argv)}: {said.decode(errors='replace').strip()[-500:]}")
        return said.decode(errors="replace")

    async def primary(self) -> str:
        """The instance that gets the traffic: the primary, or that with the address, or the first.

        Raises:
            Unavailable: there is none.
        """
        if self.design.address == VIRTUAL:
            return await self._with_address(VIRTUAL.partition(":")[0])
        if not self.design.ours:
            return instance_id(0)
        for entry in await self._passing():
            if "primary" in entry["Service"]["Tags"]:
                return entry["Service"]["ID"]
        raise Unavailable("no instance is primary")

    async def _with_address(self, address: str) -> str:
        for number, host in enumerate(named("host", self.design.hosts)):
            if f"inet {address}/" in await self.command(host, "ip", "address"):
                return instance_id(number)
        raise Unavailable(f"no host has the address {address}")

    async def _until(self, missing: Callable[[], Awaitable[str]]) -> None:
        deadline = asyncio.get_running_loop().time() + _START
        while why := await missing():
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"not up after {_START:g} s: {why}")
            await asyncio.sleep(0.5)

    async def _missing_primary(self) -> str:
        try:
            await self.primary()
        except Unavailable as error:
            return str(error)
        return ""

    async def _missing_triton(self) -> str:
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
        """Keep the pid of each Triton in a file, as systemd would, until cancelled."""
        while True:
            self._write_pids()
            await asyncio.sleep(0.1)

    def _write_pids(self) -> None:
        for number in range(self.design.hosts):
            pid = self.running(instance_id(number))
            text = "" if pid is None else str(pid)
            write_whole(self.folder / "run" / f"triton-{number}.pid", text)


def questions() -> tuple[Canary, ...]:
    """What clients ask, and the answers that are right."""
    folder = assets.folder("triton_models")
    found = model_sources.find(tuple(folder / name for name in _ASKED), demo=False)
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
    layout = site.layout(design, folder)
    site.write(design, layout)
    async with start.run(layout, partial(Hosts, design)) as running:
        writing = asyncio.create_task(running.write_pids())
        try:
            yield running
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
