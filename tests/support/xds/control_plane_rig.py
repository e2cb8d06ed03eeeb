"""The control plane as a process between a real Consul, a real Envoy and fake Tritons."""

import asyncio
import json
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from sidecar.consul.access import ConsulAccess
from sidecar.consul.client import Consul
from sidecar.control_planes import rpc
from sidecar.local.planning.ports import reserve
from sidecar.traffic.document import dump
from sidecar.v1 import control_plane_pb2
from tests.support.consul_agent import ConsulAgent
from tests.support.mesh.mesh_outside import http
from tests.support.soak import pause
from tests.support.streaming.front import streaming
from tests.support.xds import control_plane
from tests.support.xds.control_plane import SERVICE
from tests.support.xds.envoy_process import Envoy
from tests.support.xds.fake_tritons import FakeTriton
from tests.support.xds.grpc_clients import Client, Load
from tests.support.xds.waiting import PATIENCE, eventually

OWN = "calm-xds"
ROOT = Path(__file__).parents[3]
POLICY = f"triton-sidecar/{SERVICE}/policy"
UNHURRIED: dict[str, Any] = json.loads(dump(control_plane.UNHURRIED))


class ControlPlaneProcess:
    """A `triton-sidecar xds` process, which can be restarted on the same addresses."""

    def __init__(self, folder: Path, ports: Sequence[int], consul: str) -> None:
        self.port, self.metrics, self.envoy = ports
        self.state, self.log, self.token = (folder / name for name in ("state", "log", "token"))
        self._config = folder / "xds.toml"
        self._config.write_text(
            f'[consul]\naddress = "http://{consul}"\ntoken_file = "{self.token}"\n'
            f'[xds]\nname = "{OWN}"\nid = "{OWN}-0"\nservices = ["{SERVICE}"]\nstate = "state"\n'
            f'listen = "127.0.0.1:{self.port}"\nmetrics = "127.0.0.1:{self.metrics}"\n'
            f'[envoy]\nlisten = "127.0.0.1:{self.envoy}"\n[log]\nformat = "json"\n'
        )
        self.token.write_text("anonymous\n")
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process, and wait until it listens."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "sidecar", "xds", "--config", str(self._config)),
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        await eventually(lambda: asyncio.to_thread(self._page), "the control plane's metrics")

    async def stop(self) -> None:
        """Stop it gracefully."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            status = await asyncio.wait_for(process.wait(), PATIENCE)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert status == 0, self.log.read_text()
        assert "Traceback" not in self.log.read_text()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of an event."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in map(json.loads, lines) if line["event"] == event]

    async def status(self) -> str:
        """The `catalog_status` of its snapshot: why the catalog is incomplete, or empty."""
        request = control_plane_pb2.GetSnapshotRequest()
        address = f"127.0.0.1:{self.port}"
        snapshot = await rpc.ask(address, lambda stub: stub.GetSnapshot(request))
        return str(snapshot.catalog_status)

    async def metric(self, name: str) -> float:
        """A metric's value, summed over its labels."""
        page = await asyncio.to_thread(self._page) or ""
        whole = f"triton_sidecar_xds_{name}"
        found = [line.rpartition(" ") for line in page.splitlines() if line.startswith(whole)]
        return sum(float(value) for label, _, value in found if label.partition("{")[0] == whole)

    def _page(self) -> str | None:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.metrics}/metrics", timeout=10
            ) as answer:
                return str(answer.read().decode())
        except OSError:
            return None


class ControlPlaneRig:
    """A control plane, Consul, Envoy, and two fake Tritons, `a` and `b`, registered in Consul."""

    def __init__(
        self, folder: Path, agent: ConsulAgent, consul: Consul, plane: ControlPlaneProcess
    ) -> None:
        self.agent, self.consul, self.plane = agent, consul, plane
        self.tritons: dict[str, FakeTriton] = {}
        self.envoy: Envoy
        self.client: Client
        self._folder = folder
        self._stack = AsyncExitStack()

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        folder: Path,
        policy: Mapping[str, Any] | None = None,
        *,
        streamed: bool = False,
        **settings: Any,
    ) -> AsyncIterator["ControlPlaneRig"]:
        """Run a rig that serves during the context; `settings` are those of the Consul agent.

        If `streamed`, the control plane reads the catalog from a streaming agent in front of
        `agent`, which answers from its views while `agent` is stopped.
        """
        with ConsulAgent.running(folder, **settings) as agent, reserve(3) as ports:
            address = ConsulAccess(address=f"http://{agent.http}")
            async with (
                Consul(address) as consul,
                streaming(agent.http) if streamed else nullcontext(agent.http) as catalog_source,
            ):
                plane = ControlPlaneProcess(folder, ports, catalog_source)
                rig = cls(folder, agent, consul, plane)
                try:
                    await rig._start(policy)
                    yield rig
                finally:
                    await rig._stack.aclose()

    async def _start(self, policy: Mapping[str, Any] | None) -> None:
        self._stack.push_async_callback(self.plane.stop)
        for name in "ab":
            await self.join(self.consul, name)
        await self.put(f"kv/{POLICY}", UNHURRIED | dict(policy or {}))
        await self.plane.start()
        await self.fresh_envoy()

    async def join(self, consul: Consul, name: str) -> FakeTriton:
        """Start a Triton and register it."""
        triton = self.tritons[name] = await FakeTriton(name).start()
        self._stack.push_async_callback(triton.stop)
        await consul.register_service(registration(triton))
        await consul.update_check(f"{name}:verdict", "passing", "fine")
        return triton

    async def fresh_envoy(self, healthy: int = 2) -> None:
        """Replace Envoy by a new one without any configuration."""
        if hasattr(self, "envoy"):
            await self.client.close()
            await self.envoy.stop()
            (self._folder / "admin").unlink()
        self.envoy = await Envoy.start(self._folder, self.plane.port, "DELTA_GRPC")
        self._stack.push_async_callback(self.envoy.stop)
        await self.envoy.listening()
        self.client = Client(self.envoy.port)
        self._stack.push_async_callback(self.client.close)
        await eventually(lambda: self.has_healthy(healthy), f"{healthy} healthy hosts")

    async def has_healthy(self, count: int) -> bool:
        """Whether `count` hosts pass Envoy's own health checks."""
        return await self.envoy.stat(f"cluster.{SERVICE}.membership_healthy") == count

    async def hosts(self) -> int:
        """The number of hosts that Envoy has."""
        return await self.envoy.stat(f"cluster.{SERVICE}.membership_total")

    async def kept(self) -> bool:
        """Whether the state file has all instances."""
        path = self.plane.state
        return path.exists() and all(name in path.read_text() for name in self.tritons)

    async def put(self, path: str, body: object, token: str = "") -> str:
        """Write to Consul's HTTP API."""
        headers = {"X-Consul-Token": token} if token else {}
        return await http("PUT", f"http://{self.agent.http}/v1/{path}", body, headers)

    @asynccontextmanager
    async def under_load(self, clients: int = 8) -> AsyncIterator[Load]:
        """Run clients during the context."""
        load = Load(self.client, clients, pause(clients, every=0.005))
        await load.more(100)
        try:
            yield load
        finally:
            await load.stop()


def registration(triton: FakeTriton) -> Mapping[str, Any]:
    """The registration that a Triton's sidecar would make."""
    return {
        "ID": triton.name,
        "Name": SERVICE,
        "Address": "127.0.0.1",
        "Port": triton.port,
        "Meta": {"sidecar_grpc_port": str(triton.health_port)},
        "Weights": {"Passing": 100, "Warning": 50},
        "Checks": [{"CheckID": f"{triton.name}:verdict", "Name": "verdict", "TTL": "10m"}],
    }
