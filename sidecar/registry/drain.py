"""Waiting until the work in flight on this instance is done, as the control planes see it.

Only Envoy knows what is in flight. Each control plane tells how many of its Envoys have
acknowledged that the instance gets no new request, and what they still report as running on it.
"""

from sidecar import control_planes
from sidecar.clock import Clock
from sidecar.consul_api import ConsulApi


async def wait_until_idle(
    consul: ConsulApi, control_plane: str, service: str, instance: str, clock: Clock
) -> None:
    """Return once every control plane has reported that nothing is in flight.

    Without any registered control plane no Envoy follows the catalog, and there is nothing to wait
    for. While Consul or a control plane does not answer it waits: the caller sets the deadline.
    """
    asked = await control_planes.found(consul, control_plane, clock)
    if not asked:
        return
    async with control_planes.watch_drain(asked, service, instance, clock) as words:
        async for said in words:
            if all(word is not None and word.done for word in said):
                return
