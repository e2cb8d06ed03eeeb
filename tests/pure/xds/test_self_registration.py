import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import structlog

from sidecar.runtime.errors import ConfigError
from sidecar.settings.tables.core import ControlPlaneSettings
from sidecar.xds.rules import ControlPlaneRules
from sidecar.xds.self_registration import deregister, keep_registered, registration
from tests.support.consul_model import ConsulModel, FakeConsul
from tests.support.virtual_clock import VirtualClock


def settings(**changes: str) -> ControlPlaneRules:
    return ControlPlaneSettings.model_validate({"id": "xds-0", **changes}).plane


@pytest.mark.parametrize(
    ("changes", "address", "dialled"),
    [
        ({"listen": "10.0.0.1:18000"}, "10.0.0.1", "10.0.0.1:18000"),
        ({"listen": "0.0.0.0:18000", "advertise": "10.0.0.2"}, "10.0.0.2", "10.0.0.2:18000"),
        ({"listen": "[fd00::1]:18000"}, "fd00::1", "[fd00::1]:18000"),
        ({"listen": "0.0.0.0:1", "advertise": "10.0.0.2:18000"}, "10.0.0.2", "10.0.0.2:18000"),
        ({"listen": "[::]:1", "advertise": "[fd00::1]:18000"}, "fd00::1", "[fd00::1]:18000"),
    ],
)
def test_the_address_that_sidecars_dial_is_registered(
    changes: dict[str, str], address: str, dialled: str
) -> None:
    own = settings(**changes)
    body = registration(own)
    assert (body["ID"], body["Name"]) == ("xds-0", "triton-sidecar-xds")
    assert (body["Address"], body["Port"]) == (address, 18000)
    assert body["Checks"][0]["GRPC"] == dialled


@pytest.mark.parametrize("listen", ["0.0.0.0:18000", "[::]:18000"])
def test_an_address_that_cannot_be_dialed_is_an_error(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"^xds\.advertise: "):
        registration(settings(listen=listen))


@pytest.mark.parametrize(
    "changes",
    [None, {"name": "other"}, {"port": 1}, {"meta": {"a": "b"}}, {"checks": ()}],
)
async def test_a_missing_or_changed_entry_is_registered_again(
    changes: dict[str, Any] | None,
) -> None:
    consul = FakeConsul(ConsulModel())
    wished = registration(settings(listen="10.0.0.1:18000"))
    await consul.register_service(wished)
    good = consul.model.services["xds-0"]
    if changes is None:
        consul.model.deregister("xds-0", 0.0)
    else:
        consul.model.services["xds-0"] = replace(good, **changes)
    async with keeping(consul, wished):
        assert consul.model.services.get("xds-0") == good


@asynccontextmanager
async def keeping(consul: FakeConsul, wished: dict[str, Any]) -> AsyncIterator[None]:
    """Kept registered while the clock advances by a minute."""
    clock = VirtualClock()
    task = asyncio.create_task(keep_registered(consul, wished, clock, structlog.get_logger()))
    await clock.advance(60.0)
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_an_entry_with_an_outdated_token_is_registered_again() -> None:
    """From an earlier process, or from before the token was replaced."""
    consul = FakeConsul(ConsulModel())
    wished = registration(settings(listen="10.0.0.1:18000"))
    await consul.register_service(wished)
    consul.revoked.add(consul.token)
    consul.token = "new"
    async with keeping(consul, wished):
        assert consul._kept["xds-0"] == "new"
    await consul.update_check("xds-0:alive", "passing", "")
    [entry] = (await consul.health_service(wished["Name"])).value
    assert entry.status == "passing"


@pytest.mark.parametrize("known", [True, False])
async def test_a_replaced_token_leaves_no_ghost(known: bool) -> None:
    consul = FakeConsul(ConsulModel())
    wished = registration(settings(listen="10.0.0.1:18000"))
    if known:
        await consul.register_service(wished)
    consul.revoked.add(consul.token)
    consul.token = "new"
    await deregister(consul, wished)
    assert (await consul.health_service(wished["Name"])).value == ()
    assert await consul.agent_service("xds-0") is None
