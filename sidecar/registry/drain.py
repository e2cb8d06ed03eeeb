"""Waiting until the work in flight on this instance is done, as the control planes see it.

Only Envoy knows what is in flight. Each control plane tells how many of its Envoys have
acknowledged that the instance gets no new request, and what they still report as running on it.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import grpc
import grpc.aio

from sidecar.consul_api import ConsulApi, ServiceEntry
from sidecar.latest import Latest
from sidecar.v1 import control_plane_pb2, control_plane_pb2_grpc

_OPTIONS = (("grpc.enable_http_proxy", 0),)  # for http_proxy is not meant for neighbours


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
    consul: ConsulApi, control_plane: str, service: str, instance: str
) -> str:
    """Return once every control plane has reported that nothing is in flight; say what it took.

    Without any control plane no Envoy follows the catalog, and there is nothing to wait for. One
    that stops answering is waited for: the caller sets the deadline.

    Raises:
        Unavailable, Rejected: Consul does not say which control planes there are.
    """
    answer = await consul.health_service(control_plane)
    planes = [entry for entry in answer.value if entry.status == "passing"]
    if not planes:
        return "no control plane is registered"
    progress: Latest[tuple[Progress | None, ...]] = Latest((None,) * len(planes))
    followers = [
        asyncio.ensure_future(_follow(plane, place, progress, service, instance))
        for place, plane in enumerate(planes)
    ]
    try:
        async for states in progress:
            if all(state is not None and state.done for state in states):
                return _total(state for state in states if state)
    finally:
        for follower in followers:
            follower.cancel()
    raise AssertionError("a cell has no last value")


def _total(states: Iterable[Progress]) -> str:
    envoys = sum(state.envoys for state in states)
    return f"{envoys} Envoys acknowledged, nothing in flight"


async def _follow(
    plane: ServiceEntry,
    place: int,
    progress: Latest[tuple[Progress | None, ...]],
    service: str,
    instance: str,
) -> None:
    """Keep one place of `progress` as the control plane says, reconnecting for ever."""
    request = control_plane_pb2.WatchDrainRequest(service=service, instance=instance)
    while True:
        address = f"{plane.address}:{plane.port}"
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
        await asyncio.sleep(0.5)
