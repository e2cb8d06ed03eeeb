"""`triton-sidecar xds` as a program, next to a real Consul agent."""

import asyncio
import json
import signal
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from envoy.config.core.v3 import health_check_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import Delete, Lock, Set
from sidecar.consul.client import Consul
from sidecar.control_planes import rpc
from sidecar.control_planes.watch import PlaneDirectory
from sidecar.local.planning.ports import reserve
from sidecar.runtime.clock import SystemClock
from sidecar.traffic.document import dump, parse, policy_key
from sidecar.traffic.guard import Rollback
from sidecar.traffic.policy import Guard, Release, TrafficPolicy
from sidecar.xds.catalog import cached_state
from sidecar.xds.catalog.cached_state import CachedService, CachedState
from sidecar.xds.config.snapshot import ENDPOINT
from tests.support.consul_agent import ConsulAgent
from tests.support.xds.waiting import PATIENCE, eventually

pytestmark = pytest.mark.integration
OWN = "xds-app-test"
SERVICE = "xds-app-triton"
ROOT = Path(__file__).parents[3]


def instance(name: str, port: int) -> dict[str, Any]:
    return {
        "ID": name,
        "Name": SERVICE,
        "Address": "127.0.0.1",
        "Port": port,
        "Meta": {"sidecar_grpc_port": "9001"},
        "Weights": {"Passing": 1, "Warning": 1},
        "Checks": [{"CheckID": f"{name}:verdict", "Name": "verdict", "TTL": "10m"}],
    }


async def start(config: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", "xds", "--config", str(config)),
        cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


def write(
    folder: Path, agent: ConsulAgent, listen: int, metrics: int, state: Path | None = None
) -> Path:
    config = folder / "xds.toml"
    config.write_text(
        f'[consul]\naddress = "http://{agent.http}"\n'
        f'[xds]\nname = "{OWN}"\nid = "{OWN}-0"\nservices = ["{SERVICE}"]\n'
        f'listen = "127.0.0.1:{listen}"\nmetrics = "127.0.0.1:{metrics}"\n'
        + (f'state = "{state}"\n' if state else "")
    )
    return config


class Endpoints:
    """An ADS client that subscribes to endpoints only, and acknowledges every response."""

    def __init__(self, port: int) -> None:
        self.ports: list[list[int]] = []
        self.routable: list[list[int]] = []
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._stub: Any = ads_pb2_grpc.AggregatedDiscoveryServiceStub(self._channel)

    async def follow(self) -> None:
        call = self._stub.StreamAggregatedResources(wait_for_ready=True)
        request = discovery_pb2.DiscoveryRequest(type_url=ENDPOINT, resource_names=[SERVICE])
        request.node.id = "reader"
        await call.write(request)
        async for response in call:
            [resource] = response.resources
            self.ports = _ports(resource, ("UNKNOWN", "DRAINING"))
            self.routable = [group for group in _ports(resource, ("UNKNOWN",)) if group]
            request.response_nonce = response.nonce
            request.version_info = response.version_info
            await call.write(request)


def _ports(resource: Any, statuses: tuple[str, ...]) -> list[list[int]]:
    assignment = endpoint_pb2.ClusterLoadAssignment()
    resource.Unpack(assignment)
    accepted = {health_check_pb2.HealthStatus.Value(status) for status in statuses}
    return [
        [
            found.endpoint.address.socket_address.port_value
            for found in locality.lb_endpoints
            if found.health_status in accepted
        ]
        for locality in assignment.endpoints
    ]


@asynccontextmanager
async def following(port: int) -> AsyncIterator[Endpoints]:
    endpoints = Endpoints(port)
    task = asyncio.create_task(endpoints.follow())
    try:
        yield endpoints
    finally:
        task.cancel()
        await endpoints._channel.close(None)


async def test_the_program_serves_endpoints_from_consul_and_stops_gracefully(
    consul_agent: ConsulAgent, tmp_path: Path
) -> None:
    with reserve(2) as (listen, metrics):
        config = write(tmp_path, consul_agent, listen, metrics)
        settings = ConsulAccess(address=f"http://{consul_agent.http}")
        async with Consul(settings) as consul, following(listen) as endpoints:
            for name, port in (("xds-a", 8101), ("xds-b", 8102)):
                await consul.register_service(instance(name, port))
                await consul.update_check(f"{name}:verdict", "passing", "fine")
            process = await start(config)
            try:
                await eventually(lambda: endpoints.ports == [[8101, 8102]], "both are sent")

                session = await consul.session_create(
                    "xds-b", ttl=60, lock_delay=0, service_checks=["xds-b:verdict"]
                )
                prefix = f"triton-sidecar/{SERVICE}/election/"
                claim = json.dumps({"instance": "xds-b", "session": session}).encode()
                written = await consul.transact(
                    Lock(f"{prefix}lock", claim, session), Set(f"{prefix}epoch", claim)
                )
                register, warnings = PlaneDirectory(consul, OWN, SERVICE), list[str]()
                async with asyncio.timeout(PATIENCE):
                    agreement = await rpc.primary_acknowledged(
                        register,
                        SERVICE,
                        "xds-b",
                        written[f"{prefix}epoch"],
                        SystemClock(),
                        warnings.append,
                    )
                assert agreement == rpc.Agreement(planes=1, envoys=1)
                assert warnings == []
                # Its settings have no address for Envoy's counters.
                assert await rpc.failures(register, SERVICE, 1.0) is None
                await eventually(lambda: endpoints.ports == [[8102], [8101]], "b leads")

                await consul.update_check("xds-b:verdict", "critical", "wrong answer")
                await eventually(lambda: endpoints.routable == [[8101]], "b is out")
                assert endpoints.ports == [[8101], [8102]]
                await consul.maintain_service("xds-a", "draining")
                await eventually(lambda: endpoints.routable == [], "no instance is routable")
                assert endpoints.ports == [[8101, 8102]]

                async def seen() -> bool:
                    planes = (await consul.health_service(OWN)).value
                    return [(each.id, each.status) for each in planes] == [(f"{OWN}-0", "passing")]

                await eventually(seen, "Consul's check has passed")
                page = await asyncio.to_thread(_page, metrics)
                assert "triton_sidecar_xds_envoys 1.0" in page
                assert f'catalog_age_seconds{{service="{SERVICE}"}}' in page

                # An entry that is deleted is registered again.
                await consul.deregister_service(f"{OWN}-0")
                await eventually(lambda: _registered(consul), "registered again")
            finally:
                process.send_signal(signal.SIGTERM)
                _, stderr = await process.communicate()
            assert process.returncode == 0, stderr.decode()
            assert b"Traceback" not in stderr
            assert (await consul.health_service(OWN)).value == ()


async def test_a_rollback_from_before_a_restart_is_written_and_then_dropped(
    consul_agent: ConsulAgent, tmp_path: Path
) -> None:
    release = Release(tag="v2", percent=20, guard=Guard(max_error_percent=5.0))
    in_force = dump(TrafficPolicy(release=release))
    rollbacks = {SERVICE: Rollback(release, "bad")}
    cached = CachedState((SERVICE,), {SERVICE: CachedService(policy=in_force)}, None, rollbacks)
    state, key = tmp_path / "state.json", policy_key(SERVICE)
    state.write_bytes(cached_state.dump(cached, time.time()))
    settings = ConsulAccess(address=f"http://{consul_agent.http}")
    rolled_back = TrafficPolicy(release=replace(release, rolled_back="bad"))

    async def written_to_consul(consul: Consul) -> bool:
        found = (await consul.kv(key)).value
        return found is not None and parse(found.value) == rolled_back

    def dropped() -> bool:
        found, _ = cached_state.load(state.read_bytes(), (SERVICE,))
        return not found.rollbacks and parse(found.kept[SERVICE].policy or "") == rolled_back

    with reserve(2) as (listen, metrics):
        config = write(tmp_path, consul_agent, listen, metrics, state)
        async with Consul(settings) as consul:
            await consul.transact(Set(key, in_force.encode()))
            process = await start(config)
            try:
                await eventually(lambda: written_to_consul(consul), "Consul has it")
                await eventually(dropped, "the state file has no rollback")
            finally:
                process.send_signal(signal.SIGTERM)
                _, stderr = await process.communicate()
                if entry := (await consul.kv(key)).value:
                    await consul.transact(Delete(key, entry.modify_index))
            assert process.returncode == 0, stderr.decode()
            assert b"release_still_rolled_back" in stderr


async def test_a_port_in_use_is_a_config_error(consul_agent: ConsulAgent, tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    taken = server.sockets[0].getsockname()[1]
    with reserve(1) as (metrics,):
        process = await start(write(tmp_path, consul_agent, taken, metrics))
        _, stderr = await process.communicate()
    server.close()
    assert process.returncode not in (0, None)
    assert "xds.listen" in stderr.decode()
    assert "Traceback" not in stderr.decode()


async def _registered(consul: Consul) -> bool:
    return bool((await consul.health_service(OWN)).value)


def _page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())
