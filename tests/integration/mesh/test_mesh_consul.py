"""A mesh whose Consul is killed or frozen, and whose entries are deleted or edited."""

import json
import operator
import signal
import time
from typing import Any

import pytest

from sidecar.local.planning.plan import SERVICE
from tests.support.mesh.mesh import LiveMesh, unharmed
from tests.support.mesh.mesh_outside import metric, until
from tests.support.soak import soak

pytestmark = pytest.mark.integration

MESH = ("--acl",)  # default deny, as in production

TTL = 10  # seconds until a check expires that its sidecar has not renewed


@pytest.mark.parametrize("outage", [pytest.param(0, marks=soak), TTL + 2])
async def test_a_killed_agent_fails_no_request(mesh: LiveMesh, outage: float) -> None:
    async with mesh.under_load() as scene:
        with mesh.unsupervised():
            killed = mesh.signal("consul", signal.SIGKILL)
            back_at = time.monotonic() + outage
            await until(lambda: time.monotonic() > back_at, "the end of the outage")
        await until(lambda: mesh.running("consul") not in (None, killed), "a new agent")
        # Registrations, checks, lock and roles recover automatically.
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load)


async def test_a_frozen_agent_changes_neither_hosts_nor_primary(mesh: LiveMesh) -> None:
    async with mesh.under_load(traffic=True) as scene:
        before = set(await mesh.hosts())
        primary, began = scene.primary, time.monotonic()
        errors = await _errors(mesh)
        with mesh.frozen("consul"):

            async def missed() -> bool:
                return all(map(operator.gt, await _errors(mesh), errors))

            await until(missed, "each sidecar has missed Consul")
            await until(lambda: time.monotonic() > began + 12, "a freeze longer than the TTL")
            await scene.flows()
            assert set(await mesh.hosts()) == before
            assert scene.answering(began) == {primary}
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load)


async def _errors(mesh: LiveMesh) -> list[float]:
    addresses = [instance.sidecar.metrics for instance in mesh.now.instances]
    name = "triton_sidecar_request_errors_total"
    return [await metric(address, name, system="consul") for address in addresses]


@pytest.mark.parametrize("through", [pytest.param("agent", marks=soak), "catalog"])
async def test_a_deleted_entry_is_registered_again(mesh: LiveMesh, through: str) -> None:
    async with mesh.under_load() as scene:
        name = scene.primary
        since = mesh.written(mesh.sidecar_of(name))
        if through == "agent":
            await mesh.consul("PUT", f"agent/service/deregister/{name}")
        else:
            entry = await _catalog_entry(mesh, name)
            body = {"Node": entry["Node"], "ServiceID": name}
            await mesh.consul("PUT", "catalog/deregister", body)
        await mesh.registered_anew(name, since)
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load)


@pytest.mark.parametrize("through", [pytest.param("agent", marks=soak), "catalog"])
async def test_an_edited_entry_is_restored(mesh: LiveMesh, through: str) -> None:
    async with mesh.under_load() as scene:
        original = await _catalog_entry(mesh, scene.primary)
        since = mesh.written(mesh.sidecar_of(scene.primary))
        edited = {
            "ID": scene.primary,
            "Address": original["ServiceAddress"],
            "Port": 9,  # nothing listens there
            "Tags": ["standby", "edited"],
            "Meta": {**original["ServiceMeta"], "epoch": "1", "edited": "by hand"},
        }
        if through == "agent":
            await mesh.consul("PUT", "agent/service/register", {"Name": SERVICE, **edited})
        else:
            node = {
                "Node": original["Node"],
                "Address": original["Address"],
                "SkipNodeUpdate": True,
            }
            body = {**node, "Service": {"Service": SERVICE, **edited}}
            await mesh.consul("PUT", "catalog/register", body)
        await mesh.registered_anew(original["ServiceID"], since)
        await until(lambda: _is_restored(mesh, original), "the entry as it was")
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load)


async def _is_restored(mesh: LiveMesh, original: dict[str, Any]) -> bool:
    now = await _catalog_entry(mesh, original["ServiceID"])
    return all(now[key] == original[key] for key in ("ServicePort", "ServiceTags", "ServiceMeta"))


async def _catalog_entry(mesh: LiveMesh, name: str) -> dict[str, Any]:
    entries = json.loads(await mesh.consul("GET", f"catalog/service/{SERVICE}"))
    [found] = [entry for entry in entries if entry["ServiceID"] == name]
    return dict(found)
