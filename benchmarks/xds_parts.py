"""The parts of the control plane's benchmark: real programs, each in a separate process.

A Consul whose catalog is filled by its catalog API: a node for each instance, with the instance
and its checks as its sidecar would register them. Through the agent, Consul would have to poll
thousands of sidecars from this machine, which in a real mesh as many agents do. The node's check
is not named `serfHealth`, because Consul would remove nodes without an agent.
One instance, whose verdict changes, is registered through the agent.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import psutil
import yaml

from sidecar.consul.api import Status
from sidecar.consul.client import Consul
from sidecar.health import server as health_server
from sidecar.local.planning import configs
from sidecar.local.planning.plan import Ports, Probe
from sidecar.local.processes import part_probe
from sidecar.local.programs import parts
from sidecar.registry.registration import HEARTBEAT, InstanceInfo, InstanceMeta, registration
from sidecar.runtime.latest import Latest
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State

SERVICE = "triton"
PATIENCE = 120.0  # seconds within which a part must start or a change must arrive
TRITON_PORT, HEALTH_PORT = 8001, 9001
_ROOT = Path(__file__).parents[1]
_WRITERS = 16  # concurrent registrations
_OUTPUTS = {"passing": "PASSING OK", "critical": "CRITICAL CANARY_FAILED: told so by the benchmark"}


class Program:
    """A process in its own session; its output goes to a log."""

    def __init__(self, folder: Path, name: str, *argv: str) -> None:
        with (folder / f"{name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                argv, cwd=_ROOT, stdout=log, stderr=log, start_new_session=True
            )
        self._seen = psutil.Process(self._process.pid)

    @property
    def cpu(self) -> float:
        """CPU seconds so far."""
        used = self._seen.cpu_times()
        return float(used.user + used.system)

    @property
    def resident(self) -> int:
        """Resident memory in bytes."""
        return int(self._seen.memory_info().rss)

    def end(self, by: signal.Signals = signal.SIGKILL) -> None:
        """Stop the process, and wait for its end."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, by)
        self._process.wait(PATIENCE)


def consul(folder: Path, ports: Ports, dns: int) -> Program:
    """A server of its own cluster, which also serves DNS."""
    binary = parts.find("consul")
    version = parts.consul_version(binary)
    settings = json.loads(configs.consul("bench", folder / "consul", ports, version, {}))
    settings["ports"]["dns"] = dns
    path = folder / "consul.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return Program(folder, "consul", str(binary), "agent", "-config-file", str(path))


def control_plane(folder: Path, ports: Ports, consul_http: int) -> Program:
    """`triton-sidecar xds`, with Consul at a given port."""
    path = folder / "xds.toml"
    ports = replace(ports, consul_http=consul_http)
    path.write_text(configs.xds(SERVICE, "bench", ports, None), encoding="utf-8")
    argv = sys.executable, "-m", "sidecar", "xds", "--config", str(path)
    return Program(folder, "control-plane", *argv)


def envoy(folder: Path, ports: Ports) -> Program:
    """Envoy with our bootstrap and rare health checks.

    Its default checks of thousands of endpoints, four times a second, would dominate the result.
    """
    bootstrap = yaml.safe_load((_ROOT / "envoy" / "bootstrap.yaml").read_text(encoding="utf-8"))
    document = yaml.safe_load(configs.envoy(bootstrap, "bench", ports))
    layers = document.setdefault("layered_runtime", {}).setdefault("layers", [])
    seldom = {"health_check.min_interval": 600_000}
    layers.append({"name": "bench", "static_layer": seldom})
    return run_envoy(folder, "envoy", document)


def run_envoy(folder: Path, name: str, document: Any) -> Program:
    """An Envoy with this bootstrap, which logs only errors."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    flags = "--disable-hot-restart", "--concurrency", "1", "-l", "warn"
    return Program(folder, name, str(parts.find("envoy")), "-c", str(path), *flags)


async def answers(kind: str, target: str) -> None:
    """Wait until a part answers."""
    async with asyncio.timeout(PATIENCE):
        await part_probe.until(Probe(kind, target))  # type: ignore[arg-type]


class Admin:
    """Envoy's admin interface."""

    def __init__(self, http: aiohttp.ClientSession, port: int) -> None:
        self._http = http
        self._url = f"http://127.0.0.1:{port}/stats?format=json&filter="

    async def stat(self, name: str) -> int:
        """A counter or gauge of the service's cluster; 0 while it does not exist."""
        async with self._http.get(f"{self._url}^cluster\\.{SERVICE}\\.{name}$") as answer:
            found = (await answer.json(content_type=None))["stats"]
        return int(found[0]["value"]) if found else 0


# --- the catalog ----------------------------------------------------------------------------


def instance(number: int, sidecar_port: int = HEALTH_PORT) -> InstanceInfo:
    """An instance with its own loopback address."""
    address = f"127.{1 + number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"
    return InstanceInfo(
        id=f"triton-{number:05}",
        service=SERVICE,
        address=address,
        port=TRITON_PORT,
        weight=1,
        tags=("production",),
        meta=(("zone", f"rack-{number % 4}"),),
        models=("chat", "embedder"),
        sidecar=f"{'127.0.0.1' if sidecar_port != HEALTH_PORT else address}:{sidecar_port}",
        liveness=health_server.LIVENESS,
    )


_STANDING = InstanceMeta(
    triton_version="2.51.0",
    model_set="files-0123456789abcdef",
    gpus="GPU-8f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
)


async def fill(http: aiohttp.ClientSession, address: str, numbers: Sequence[int]) -> None:
    """Register instances in the catalog."""
    todo = list(numbers)

    async def writer() -> None:
        while todo:
            body = _in_catalog(instance(todo.pop()))
            url = f"http://{address}/v1/catalog/register"
            async with http.put(url, data=json.dumps(body)) as answer:
                answer.raise_for_status()

    await asyncio.gather(*(writer() for _ in range(_WRITERS)))


def _in_catalog(made: InstanceInfo) -> dict[str, Any]:
    """A sidecar's registration, as an agent would sync it to the servers."""
    entry = registration(made, _STANDING)
    checks = entry.pop("Checks")
    node = f"node-{made.id}"
    checks = [
        {"CheckID": "agentHealth", "Name": "Serf Health Status", "Status": "passing",
         "Output": "Agent alive and reachable"}
    ] + [
        {
            "CheckID": check["CheckID"],
            "Name": check["Name"],
            "Notes": check["Notes"],
            "Status": "passing",
            "Output": _OUTPUTS["passing"]
            if "TTL" in check
            else f"gRPC check {check['GRPC']}: success",
            "ServiceID": made.id,
        }
        for check in checks
    ]  # fmt: skip
    entry["Service"] = entry.pop("Name")
    return {"Node": node, "Address": made.address, "Service": entry, "Checks": checks}


@dataclass
class Flipper:
    """The instance whose verdict changes, registered and renewed as by its sidecar."""

    consul: Consul
    instance: InstanceInfo
    status: Status = "passing"
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    @asynccontextmanager
    async def registered(cls, consul: Consul) -> AsyncIterator["Flipper"]:
        """Register it during the context."""
        server = grpc.aio.server()
        well = Verdict(State.PASSING, Reason.OK)
        health_server.add_to(server, Latest(well), frozenset())
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        made = cls(consul, instance(0, port))
        await consul.register_service(registration(made.instance, _STANDING))
        await made.set("passing")
        beating = asyncio.create_task(made._beat())
        try:
            yield made
        finally:
            beating.cancel()
            await server.stop(None)

    async def set(self, status: Status) -> None:
        """Push a verdict."""
        async with self._lock:
            self.status = status
            await self.consul.update_check(self.instance.verdict_check, status, _OUTPUTS[status])

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            await self.set(self.status)
