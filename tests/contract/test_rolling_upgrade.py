"""Sidecars of this version and of an earlier one side by side, on a real Consul and Triton.

The earlier one is built from git history, at the last commit at which programs read
each other's sentences (docs/decisions/0064).
"""

import asyncio
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import ServiceEntry, Set
from sidecar.consul.client import Consul
from sidecar.election.keys import lock, orders
from sidecar.election.keys.orders import Kind, Order
from sidecar.local.planning import toml
from sidecar.local.planning.ports import reserve
from sidecar.registry import checks, registration
from sidecar.runtime.clock import SystemClock
from sidecar.v1 import control_plane_pb2, control_plane_pb2_grpc
from sidecar.verdict.verdict_line import State
from tests.support.consul_agent import ConsulAgent
from tests.support.triton_server import TritonServer

EARLIER = "6a4b0b39fa0155086c8d712441a080a17004e0fb"
ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds; machines are shared
_names = itertools.count()

EITHER_WAY = pytest.mark.parametrize(
    ("before", "after"), [("earlier", "this"), ("this", "earlier")]
)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each version's package."""
    if _git("rev-parse", "--is-shallow-repository").stdout.strip() != b"false":
        pytest.skip("the earlier version is in git's history, which this copy of the sources lacks")
    packed = _git("archive", "--format=tar", EARLIER, "sidecar")
    assert packed.returncode == 0, packed.stderr.decode()
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return {"this": ROOT, "earlier": folder}


def _git(*command: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(("git", "-C", str(ROOT), *command), capture_output=True, check=False)


class Mesh:
    """The sidecars of one service, by instance."""

    def __init__(
        self, folder: Path, trees: dict[str, Path], agent: ConsulAgent, triton: str, consul: Consul
    ) -> None:
        self.service = f"upgrade{next(_names)}"
        self.plane = f"{self.service}-xds"
        self.consul = consul
        self._folder, self._trees, self._agent, self._triton = folder, trees, agent, triton
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._claims = ExitStack()
        self._configs: dict[str, Path] = {}
        self._orders = itertools.count()

    def start(self, version: str, name: str) -> None:
        """Start a sidecar."""
        self._start(version, name, "run", "--config", self._config(name))

    def start_control_plane(self, version: str) -> str:
        """Start a control plane; gives its address."""
        port, metrics, envoy = self._claims.enter_context(reserve(3))
        address = f"127.0.0.1:{port}"
        tables = {
            "consul": {"address": f"http://{self._agent.http}"},
            "xds": {
                "listen": address,
                "metrics": f"127.0.0.1:{metrics}",
                "services": [self.service],
                "name": self.plane,
                "id": f"{self.plane}-{version}",
            },
            "envoy": {"listen": f"127.0.0.1:{envoy}"},
        }
        config = self._folder / f"plane-{version}.toml"
        config.write_text(toml.dumps(tables))
        self._start(version, f"plane-{version}", "xds", "--config", config)
        return address

    def _start(self, version: str, name: str, *command: str | Path) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                **self._as_of(version, *command), stdout=log, stderr=log
            )

    def _as_of(self, version: str, *command: str | Path) -> dict[str, Any]:
        """The command line of a version, run from its package."""
        tree = self._trees[version]
        return {
            "args": (sys.executable, "-m", "sidecar", *map(str, command)),
            "cwd": tree,
            "env": {**os.environ, "PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"},
        }

    async def command(self, version: str, *command: str) -> Any:
        """The JSON of an operator's command; None if it fails."""
        asked = self._as_of(version, *command, "--json")
        done = await asyncio.to_thread(
            lambda: subprocess.run(**asked, capture_output=True, check=False)
        )
        return None if done.returncode else json.loads(done.stdout)

    def of(self, name: str) -> tuple[str, str]:
        """The flags and environment that name Consul and the service."""
        return "--config", str(self._config(name))

    async def priority(self, plane: str, name: str) -> int | None:
        """The priority of an instance in a control plane's snapshot; None if it has no endpoint."""
        asked = control_plane_pb2.ExplainRequest(service=self.service, instance=self.id(name))
        async with grpc.aio.insecure_channel(plane) as channel:
            stub = control_plane_pb2_grpc.ControlPlaneServiceStub(channel)  # type: ignore[no-untyped-call]
            found = await stub.Explain(asked, wait_for_ready=True)
        [placement] = found.placements or [control_plane_pb2.Placement()]
        return placement.priority if placement.HasField("priority") else None

    def _config(self, name: str) -> Path:
        """The settings file of an instance, the same for either version."""
        if name not in self._configs:
            ports = self._claims.enter_context(reserve(2))
            listen = dict(zip(("grpc", "metrics"), (f"127.0.0.1:{p}" for p in ports), strict=True))
            tables = {
                # One address each: control planes fold instances that share one. It is not used.
                "service": {
                    "name": self.service,
                    "id": self.id(name),
                    "address": f"127.0.0.{2 + len(self._configs)}",
                },
                "triton": {"grpc": self._triton, "models": ["embedder"]},
                "consul": {"address": f"http://{self._agent.http}"},
                "listen": listen,
                "election": {"settle": "0s"},
                "drain": {"control_plane": self.plane},
                "gpu": {"enabled": "off"},
            }
            self._configs[name] = self._folder / f"{name}.toml"
            self._configs[name].write_text(toml.dumps(tables))
        return self._configs[name]

    def id(self, name: str) -> str:
        """The instance's id, which is unique because the agent is shared."""
        return f"{self.service}-{name}"

    def signal(self, name: str, number: signal.Signals) -> None:
        self._running[name].send_signal(number)

    async def ended(self, name: str) -> int:
        """The exit status of a sidecar that has ended."""
        return await asyncio.wait_for(asyncio.to_thread(self._running.pop(name).wait), PATIENCE)

    def end(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()
        self._claims.close()

    async def entry(self, name: str) -> ServiceEntry | None:
        entries = (await self.consul.health_service(self.service)).value
        return next((entry for entry in entries if entry.id == self.id(name)), None)

    async def state(self, name: str) -> State | None:
        """The last verdict that the instance's sidecar pushed."""
        entry = await self.entry(name)
        found = map(checks.pushed_line, entry.checks if entry else ())
        return next((told.state for told in found if told), None)

    async def passes(self, name: str) -> bool:
        entry = await self.entry(name)
        return entry is not None and entry.status == "passing"

    async def primary(self) -> str | None:
        answer = await self.consul.kv_prefix(lock.prefix(self.service))
        return lock.read(self.service, answer.value, answer.index).instance

    async def order(self, to: str) -> None:
        order_id = f"o{next(self._orders)}"
        order = Order(
            order_id, Kind.SWITCHOVER, SystemClock().wall(), "me", self.id(to), "new kernel"
        )
        await self.consul.transact(Set(orders.order_key(self.service), lock.dumps(order)))

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not await holds():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            logs = sorted(self._folder.glob("*.log"))
            pytest.fail("\n".join(f"{log}:\n{log.read_text()[-3000:]}" for log in logs))

    async def until_primary(self, name: str) -> None:
        async def holds() -> bool:
            return await self.primary() == self.id(name)

        await self.until(holds)


@pytest.fixture
async def mesh(
    tmp_path: Path,
    trees: dict[str, Path],
    consul_agent: ConsulAgent,
    triton_server: TritonServer,
) -> AsyncIterator[Mesh]:
    async with Consul(ConsulAccess(address=f"http://{consul_agent.http}")) as consul:
        made = Mesh(tmp_path, trees, consul_agent, triton_server.grpc, consul)
        try:
            yield made
        finally:
            made.end()
            for entry in (await consul.health_service(made.service)).value:
                await consul.deregister_service(entry.id)


async def test_the_role_moves_from_version_to_version(mesh: Mesh) -> None:
    mesh.start("earlier", "old")
    await mesh.until_primary("old")
    mesh.start("this", "new")
    await mesh.until(lambda: mesh.passes("new"))
    for to in ("new", "old"):
        await mesh.order(to)
        await mesh.until_primary(to)
    # Each primary hands over before it stops.
    for name, other, version in (("old", "new", "earlier"), ("new", "old", "this")):
        mesh.signal(name, signal.SIGTERM)
        await mesh.until_primary(other)
        assert await mesh.ended(name) == 0
        assert await mesh.entry(name) is None
        mesh.start(version, name)
        await mesh.until(lambda name=name: mesh.passes(name))  # type: ignore[misc]
    assert await mesh.primary() == mesh.id("old")


@EITHER_WAY
async def test_the_withdrawal_of_a_sidecar_that_was_killed_is_lifted(
    mesh: Mesh, before: str, after: str
) -> None:
    silent = {"ID": mesh.plane, "Name": mesh.plane, "Address": "127.0.0.1", "Port": 1}
    await mesh.consul.register_service(silent)  # the drain waits for it, and does not end
    mesh.start(before, "a")
    await mesh.until(lambda: mesh.passes("a"))
    mesh.signal("a", signal.SIGTERM)

    async def is_withdrawn() -> bool:
        return registration.withdrawn(await mesh.entry("a"))

    await mesh.until(is_withdrawn)
    mesh.signal("a", signal.SIGKILL)
    await mesh.ended("a")
    assert await is_withdrawn()
    mesh.start(after, "a")
    await mesh.until(lambda: mesh.passes("a"))
    await mesh.consul.deregister_service(mesh.plane)


@EITHER_WAY
async def test_an_operators_maintenance_survives_the_upgrade(
    mesh: Mesh, before: str, after: str
) -> None:
    async def is_in_maintenance() -> bool:
        return await mesh.state("a") is State.MAINTENANCE

    mesh.start(before, "a")
    await mesh.until(lambda: mesh.passes("a"))
    await mesh.consul.maintain_service(mesh.id("a"), "new disk")
    await mesh.until(is_in_maintenance)
    mesh.signal("a", signal.SIGTERM)
    assert await mesh.ended("a") == 0
    mesh.start(after, "a")
    await mesh.until(is_in_maintenance)
    assert registration.maintenance_of_others(await mesh.entry("a")) == "new disk"
    await mesh.consul.maintain_service(mesh.id("a"), None)
    await mesh.until(lambda: mesh.passes("a"))


async def test_control_planes_and_commands_of_either_version_read_sidecars_of_both(
    mesh: Mesh,
) -> None:
    mesh.start("earlier", "old")
    await mesh.until_primary("old")
    mesh.start("this", "new")
    await mesh.until(lambda: mesh.passes("new"))
    planes = [mesh.start_control_plane(version) for version in ("earlier", "this")]

    def all_show(**expected: int | None) -> Callable[[], Awaitable[bool]]:
        async def holds() -> bool:
            shown = [
                {name: await mesh.priority(plane, name) for name in expected} for plane in planes
            ]
            return all(each == expected for each in shown)

        return holds

    await mesh.until(all_show(old=0, new=1))
    for version in ("earlier", "this"):
        said = await mesh.command(version, "xds", "explain", mesh.id("new"), *mesh.of("new"))
        places = [each["placements"][0]["priority"] for each in said["control_planes"]]
        assert places == [1, 1]
    for version, to, expected in (
        ("this", "new", {"old": 1, "new": 0}),
        ("earlier", "old", {"old": 0, "new": 1}),
    ):
        assert await mesh.command(version, "switchover", *mesh.of(to), "--to", mesh.id(to))
        await mesh.until(all_show(**expected))
    for name, left in (("old", {"old": None, "new": 0}), ("new", {"old": 0, "new": None})):
        await mesh.consul.maintain_service(mesh.id(name), "new disk")
        await mesh.until(all_show(**left))
        await mesh.consul.maintain_service(mesh.id(name), None)
        await mesh.until(lambda name=name: mesh.passes(name))  # type: ignore[misc]
