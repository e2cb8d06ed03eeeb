"""Ghosts, on real agents: the entries of a node that has died without deregistering."""

import asyncio
from pathlib import Path

from sidecar.consul.access import ConsulAccess
from sidecar.consul.client import Consul
from sidecar.election import candidates
from sidecar.recovery.decision import Peers
from sidecar.recovery.other_instances import look
from sidecar.registry.checks import NODE
from sidecar.registry.duplicate_entries import fold
from sidecar.registry.registration import InstanceInfo, InstanceMeta, registration
from sidecar.xds.catalog.catalog_entries import EntryReader
from tests.support.consul_agent import ConsulAgent
from tests.support.mesh.mesh_outside import until


async def join(consul: Consul, name: str) -> None:
    """Register a passing instance, without Consul's check of its sidecar."""
    own = InstanceInfo(name, "t", "127.0.0.1", 1, 1, (), (), ("m",), "127.0.0.1:9", "live")
    body = registration(own, InstanceMeta())
    body["Checks"] = body["Checks"][:1]
    await consul.register_service(body)
    await consul.update_check(own.verdict_check, "passing", "PASSING OK")


async def test_a_ghost_is_ignored_if_its_instance_is_registered_elsewhere(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("server", "client")]
    for folder in folders:
        folder.mkdir()
    with (
        ConsulAgent.running(folders[0]) as server,
        ConsulAgent.running(folders[1], of=server) as client,
    ):
        async with (
            Consul(ConsulAccess(address=server.http, timeout=15)) as there,
            Consul(ConsulAccess(address=client.http, timeout=15)) as here,
        ):
            for name in ("a", "b"):
                await join(here, name)

            async def seen() -> list[tuple[str, str]]:
                entries = (await there.health_service("t")).value
                gone = [each for each in entries if any(
                    check.id == NODE and check.status == "critical" for check in each.checks
                )]  # fmt: skip
                return [(each.id, each.node) for each in gone]

            await asyncio.to_thread(client.stop)  # by SIGKILL, as if its machine had died
            for name in ("a", "b"):
                await join(there, name)
            await until(seen, "Consul sees that the node is gone")
            entries = (await there.health_service("t")).value
            assert [each.id for each in entries] == ["a", "a", "b", "b"]
            ghosts = dict(await seen())
            assert ghosts.keys() == {"a", "b"}
            assert all(each.node != ghosts[each.id] for each in fold(entries))
            assert [each.serving for each in candidates.read(entries)] == [True, True]
            instances, _ = EntryReader().read(entries)
            assert [(each.id, each.usable) for each in instances] == [("a", True), ("b", True)]
            assert await look(there, "t", "a") == Peers(1, 0)
