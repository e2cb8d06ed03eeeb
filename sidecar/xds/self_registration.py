"""The control plane's own entry in Consul, through which draining sidecars find it.

Acts: through what it imports or is given.
"""

from typing import Any

import structlog

from sidecar.consul.api import ConsulApi, ServiceEntry
from sidecar.runtime.addresses import WILDCARDS, join_address, split_address, split_advertised
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import ConfigError, SidecarError
from sidecar.xds.rules import ControlPlaneRules

_RECONCILE = 5.0  # seconds between checks that the entry still exists
_RETRY = 1.0  # seconds between attempts while Consul does not answer


def dialed_address(plane: ControlPlaneRules) -> tuple[str, int]:
    """Host and port that sidecars and Consul dial.

    Raises:
        ConfigError: the address cannot be dialed.
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
    """The body for Consul's `agent/service/register`, limited to fields that Consul 1.8 knows.

    Raises:
        ConfigError: the address cannot be dialed.
    """
    host, port = dialed_address(plane)
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
                # Drains must not wait for an id that never comes back.
                "DeregisterCriticalServiceAfter": "10m",
            }
        ],
    }


async def keep_registered(
    consul: ConsulApi,
    wanted: dict[str, Any],
    clock: Clock,
    log: structlog.typing.FilteringBoundLogger,
) -> None:
    """Register, and again whenever the agent's entry is gone or differs; never returns.

    Also registers at the start, for what the agent does not show: the check's definition and the
    token.
    """
    failing = ""
    while True:
        try:
            found = await consul.agent_service(wanted["ID"])
            right = found is not None and _matches(found, wanted)
            if not right or not await consul.keeps_token(wanted["ID"]):
                await consul.register_service(wanted)
                log.info("control_plane_registered", id=wanted["ID"], service=wanted["Name"])
            failing = ""
            await clock.sleep(_RECONCILE)
        except SidecarError as error:
            if str(error) != failing:
                log.warning("control_plane_not_registered", id=wanted["ID"], why=str(error))
            failing = str(error)
            await clock.sleep(clock.jitter(_RETRY, 0.2))


async def deregister(consul: ConsulApi, wanted: dict[str, Any]) -> None:
    """Remove the entry, with a token that may: the agent uses the one it was registered with.

    Raises:
        SidecarError: Consul has not confirmed it.
    """
    known = await consul.agent_service(wanted["ID"]) is not None
    if known and not await consul.keeps_token(wanted["ID"]):
        await consul.register_service(wanted)
    await consul.deregister_service(wanted["ID"])


def _matches(found: ServiceEntry, wanted: dict[str, Any]) -> bool:
    """Whether the agent's entry is ours; it may have more checks, such as for maintenance mode."""
    same = (found.name, found.address, found.port, dict(found.meta)) == (
        wanted["Name"],
        wanted["Address"],
        wanted["Port"],
        wanted.get("Meta", {}),
    )
    checks = {check.id for check in found.checks}
    return same and checks.issuperset(check["CheckID"] for check in wanted["Checks"])
