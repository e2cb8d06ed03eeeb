import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import structlog

from sidecar.clock import SystemClock
from sidecar.errors import ConfigError
from sidecar.settings.tables import ControlPlaneSettings
from sidecar.xds.registration import keep_registered, registration
from tests.consul_model import ConsulModel, FakeConsul


def settings(**changes: str) -> ControlPlaneSettings:
    return ControlPlaneSettings.model_validate({"id": "xds-0", **changes})


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
def test_sidecars_are_told_where_to_dial(
    changes: dict[str, str], address: str, dialled: str
) -> None:
    own = settings(**changes)
    body = registration(own)
    assert (body["ID"], body["Name"]) == ("xds-0", "triton-sidecar-xds")
    assert (body["Address"], body["Port"]) == (address, 18000)
    assert body["Checks"][0]["GRPC"] == dialled


@pytest.mark.parametrize("listen", ["0.0.0.0:18000", "[::]:18000"])
def test_an_address_that_nobody_can_dial_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"xds\.advertise: expected the address"):
        registration(settings(listen=listen))


@pytest.mark.parametrize(
    "changes",
    [None, {"name": "other"}, {"port": 1}, {"meta": {"a": "b"}}, {"checks": ()}],
)
async def test_an_entry_that_is_gone_or_another_one_is_written_again(
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
    task = asyncio.create_task(
        keep_registered(consul, wished, SystemClock(), structlog.get_logger())
    )
    async with asyncio.timeout(60):
        while consul.model.services.get("xds-0") != good:
            await asyncio.sleep(0.01)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
