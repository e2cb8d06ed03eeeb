"""Waiting until the work in flight on this instance is done, as the control planes see it.

Only Envoy knows what is in flight. Each control plane tells how many of its Envoys have
acknowledged that the instance gets no new request, and what they still report as running on it.
"""

import asyncio
from dataclasses import dataclass

import grpc
import grpc.aio

from sidecar.clock import Clock
from sidecar.consul_api import ConsulApi, ServiceEntry
from sidecar.errors import SidecarError
from sidecar.latest import Latest
from sidecar.settings.values import join_address
from sidecar.v1 import control_plane_pb2, control_plane_pb2_grpc

_OPTIONS = (("grpc.enable_http_proxy", 0),)  # for http_proxy is not meant for neighbours


_RETRY = 0.5  # seconds between attempts to reach Consul or a control plane


@dataclass(frozen=True, slots=True)
class Progress:
    """What one control plane last said; all counts are of its connected Envoys."""

    envoys: int
    acknowledged: int
    reported: int
    in_flight: int

    @property
    def done(self) -> bool:
        """Whether no Envoy of this control plane has work on the instance, for certain."""
        return self.acknowledged == self.reported == self.envoys and self.in_flight == 0


async def wait_until_idle(
    consul: ConsulApi, control_plane: str, service: str, instance: str, clock: Clock
) -> None:
    """Return once every control plane has reported that nothing is in flight.

    Without any registered control plane no Envoy follows the catalog, and there is nothing to wait
    for. While Consul or a control plane does not answer it waits: the caller sets the deadline.
    """
    planes = await _planes(consul, control_plane, clock)
    if not planes:
        return
    progress: Latest[tuple[Progress | None, ...]] = Latest((None,) * len(planes))
    followers = [
        asyncio.ensure_future(_follow(plane, place, progress, service, instance, clock))
        for place, plane in enumerate(planes)
    ]
    try:
        async for states in progress:
            if all(state is not None and state.done for state in states):
                return
    finally:
        for follower in followers:
            follower.cancel()


async def _planes(consul: ConsulApi, control_plane: str, clock: Clock) -> tuple[ServiceEntry, ...]:
    """All that are registered, healthy or not: one that Consul cannot reach may serve Envoys."""
    while True:
        try:
            return (await consul.health_service(control_plane)).value
        except SidecarError:  # the door has reported it
            await clock.sleep(_RETRY)


async def _follow(
    plane: ServiceEntry,
    place: int,
    progress: Latest[tuple[Progress | None, ...]],
    service: str,
    instance: str,
    clock: Clock,
) -> None:
    """Keep one place of `progress` as the control plane says, reconnecting for ever."""
    request = control_plane_pb2.WatchDrainRequest(service=service, instance=instance)
    while True:
        address = join_address(plane.address, plane.port)
        async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
            stub = control_plane_pb2_grpc.ControlPlaneServiceStub(channel)  # type: ignore[no-untyped-call]
            try:
                async for said in stub.WatchDrain(request):
                    state = Progress(
                        said.envoys,
                        said.envoys_acknowledged,
                        said.envoys_reported,
                        said.requests_in_flight,
                    )
                    states = progress.value
                    progress.set((*states[:place], state, *states[place + 1 :]))
            except grpc.RpcError:
                pass  # its last word stands; if it was not "done", the deadline decides
        await clock.sleep(_RETRY)
