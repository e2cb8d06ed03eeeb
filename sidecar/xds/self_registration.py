"""The control plane's own entry in Consul, by which draining sidecars find it."""

from typing import Any

import structlog

from sidecar.consul.api import ConsulApi, ServiceEntry
from sidecar.runtime.addresses import WILDCARDS, join_address, split_address, split_advertised
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import ConfigError, SidecarError
from sidecar.xds.rules import ControlPlaneRules

_RECONCILE = 5.0  # seconds between looks at whether the entry is still there
_RETRY = 1.0  # seconds until the next attempt while Consul does not answer


def dialled(plane: ControlPlaneRules) -> tuple[str, int]:
    """Host and port that sidecars and Consul dial.

    Raises:
        ConfigError: nobody could dial the address.
    """
    host, port = split_address(plane.listen)
    if plane.advertise is not None:
        host, port = split_advertised(plane.advertise, port)
    if host in WILDCARDS:
        raise ConfigError(
            f"xds.advertise: expected the address that sidecars dial, as xds.listen is {host}"
        )
    return host, port


def registration(plane: ControlPlaneRules) -> dict[str, Any]:
    """The body for Consul's `agent/service/register`; only fields that Consul 1.8 knows.

    Raises:
        ConfigError: nobody could dial the address.
    """
    host, port = dialled(plane)
    return {
        "ID": plane.instance,
        "Name": plane.name,
        "Address": host,
        "Port": port,
        "Checks": [
            {
                "CheckID": f"{plane.instance}:alive",
                "Name": "Control plane alive",
                "GRPC": join_address(host, port),
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
    """Register, and again whenever the agent's entry is gone or another one, for ever.

    Also at the start, for what the agent does not show: how the check is made, and its token.
    """
    failing = ""
    while True:
        try:
            found = await consul.agent_service(wished["ID"])
            right = found is not None and _matches(found, wished)
            if not right or not await consul.keeps_token(wished["ID"]):
                await consul.register_service(wished)
                log.info("control_plane_registered", id=wished["ID"], service=wished["Name"])
            failing = ""
            await clock.sleep(_RECONCILE)
        except SidecarError as error:
            if str(error) != failing:
                log.warning("control_plane_not_registered", id=wished["ID"], why=str(error))
            failing = str(error)
            await clock.sleep(clock.jitter(_RETRY, 0.2))


async def deregister(consul: ConsulApi, wished: dict[str, Any]) -> None:
    """Take the entry away, by a token that may: the agent uses the one that it keeps.

    Raises:
        SidecarError: Consul has not confirmed it.
    """
    known = await consul.agent_service(wished["ID"]) is not None
    if known and not await consul.keeps_token(wished["ID"]):
        await consul.register_service(wished)
    await consul.deregister_service(wished["ID"])


def _matches(found: ServiceEntry, wished: dict[str, Any]) -> bool:
    """Whether the agent's entry says what we said; it may have more checks, as for maintenance."""
    same = (found.name, found.address, found.port, dict(found.meta)) == (
        wished["Name"],
        wished["Address"],
        wished["Port"],
        wished.get("Meta", {}),
    )
    checks = {check.id for check in found.checks}
    return same and checks.issuperset(check["CheckID"] for check in wished["Checks"])
