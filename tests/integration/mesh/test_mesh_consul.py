"""What a mesh makes of Consul's restarts and pauses, and of others' meddling with its entries."""

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

MESH = ("--acl",)  # with Consul denying by default, as in production

TTL = 10  # seconds after which a check lapses that no sidecar has renewed


@pytest.mark.parametrize("away", [pytest.param(0, marks=soak), TTL + 2])
async def test_the_agent_is_killed(mesh: LiveMesh, away: float) -> None:
    async with mesh.under_load() as scene:
        with mesh.unsupervised():
            killed = mesh.signal("consul", signal.SIGKILL)
            back_at = time.monotonic() + away
            await until(lambda: time.monotonic() > back_at, "an agent away for so long")
        await until(lambda: mesh.running("consul") not in (None, killed), "a new agent")
        # Registration, checks, lock and roles come back by themselves.
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load)


async def test_the_agent_is_frozen(mesh: LiveMesh) -> None:
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
async def test_an_entry_is_deleted(mesh: LiveMesh, through: str) -> None:
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
async def test_an_entry_is_edited(mesh: LiveMesh, through: str) -> None:
    async with mesh.under_load() as scene:
        right = await _catalog_entry(mesh, scene.primary)
        since = mesh.written(mesh.sidecar_of(scene.primary))
        edited = {
            "ID": scene.primary,
            "Address": right["ServiceAddress"],
            "Port": 9,  # where nobody listens
            "Tags": ["standby", "edited"],
            "Meta": {**right["ServiceMeta"], "epoch": "1", "edited": "by hand"},
        }
        if through == "agent":
            await mesh.consul("PUT", "agent/service/register", {"Name": SERVICE, **edited})
        else:
            node = {"Node": right["Node"], "Address": right["Address"], "SkipNodeUpdate": True}
            body = {**node, "Service": {"Service": SERVICE, **edited}}
            await mesh.consul("PUT", "catalog/register", body)
        await mesh.registered_anew(right["ServiceID"], since)
        await until(lambda: _is_again(mesh, right), "the entry as it was")
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load)


async def _is_again(mesh: LiveMesh, right: dict[str, Any]) -> bool:
    now = await _catalog_entry(mesh, right["ServiceID"])
    return all(now[key] == right[key] for key in ("ServicePort", "ServiceTags", "ServiceMeta"))


async def _catalog_entry(mesh: LiveMesh, name: str) -> dict[str, Any]:
    entries = json.loads(await mesh.consul("GET", f"catalog/service/{SERVICE}"))
    [found] = [entry for entry in entries if entry["ServiceID"] == name]
    return dict(found)
