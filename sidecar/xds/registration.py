"""The control plane's own entry in Consul, by which draining sidecars find it."""

from typing import Any

import structlog

from sidecar.clock import Clock
from sidecar.consul_api import ConsulApi
from sidecar.errors import ConfigError, SidecarError
from sidecar.settings import ControlPlaneSettings, split_address

_RECONCILE = 5.0  # seconds between looks at whether the entry is still there
_RETRY = 1.0  # seconds until the next attempt while Consul does not answer
_ANYWHERE = {"0.0.0.0", "::"}


def registration(settings: ControlPlaneSettings, port: int) -> dict[str, Any]:
    """The body for Consul's `agent/service/register`; only fields that Consul 1.8 knows.

    Raises:
        ConfigError: nobody could dial the address.
    """
    host = settings.advertise or split_address(settings.listen)[0]
    if host in _ANYWHERE:
        raise ConfigError(
            f"xds.advertise: expected the address that sidecars dial, as xds.listen is {host}"
        )
    dialled = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return {
        "ID": settings.instance,
        "Name": settings.name,
        "Address": host,
        "Port": port,
        "Checks": [
            {
                "CheckID": f"{settings.instance}:alive",
                "Name": "Control plane alive",
                "GRPC": dialled,
                "Interval": "5s",
                "Timeout": "2s",
                # It listens before it registers.
                "Status": "passing",
                # An id that never comes back must not be waited for by every drain.
                "DeregisterCriticalServiceAfter": "10m",
            }
        ],
    }


async def keep_registered(
    consul: ConsulApi,
    wished: dict[str, Any],
    clock: Clock,
    log: structlog.typing.FilteringBoundLogger,
) -> None:
    """Register, and again whenever the agent has lost the entry, for ever."""
    failing = ""
    while True:
        try:
            found = await consul.agent_service(wished["ID"])
            at = (found.address, found.port) if found else None
            if at != (wished["Address"], wished["Port"]):
                await consul.register_service(wished)
                log.info("registered", id=wished["ID"], service=wished["Name"])
            failing = ""
            await clock.sleep(_RECONCILE)
        except SidecarError as error:
            if str(error) != failing:
                log.warning("not registered", why=str(error))
            failing = str(error)
            await clock.sleep(clock.jitter(_RETRY, 0.2))
