"""Queries of sidecars and operators to the control planes; gRPC errors end in this module.

Each control plane answers for the Envoys connected to it, so a caller has to query all of them.
`watch.py` finds and follows them.

Acts: asyncio, grpc.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from sidecar.consul.api import ServiceEntry
from sidecar.control_planes.membership import NOT_LISTED_YET, PlaneReports
from sidecar.control_planes.watch import Directory, PlaneDirectory, stub_at, watching
from sidecar.runtime.addresses import join_address
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import DeadlineExceeded, Rejected, SidecarError, Unavailable
from sidecar.runtime.latest import Latest
from sidecar.v1 import control_plane_pb2

_TIMEOUT = 5.0  # seconds for a unary call

T = TypeVar("T")
# The last report of each control plane, and why there may be others.
Reports = Latest[PlaneReports[T]]


@dataclass(frozen=True, slots=True)
class Drain:
    """What one control plane last reported about an instance that withdraws.

    Of its `envoys`, `acknowledged` send the instance no new requests; of those, `reported` have
    since sent a load report. `nodes` are its Envoys' node ids; an older version does not send them.
    """

    envoys: int
    acknowledged: int
    reported: int
    in_flight: int
    nodes: frozenset[str] = frozenset()

    @property
    def done(self) -> bool:
        """Whether certainly nothing is in flight on the instance at this control plane's Envoys."""
        return self.acknowledged == self.reported == self.envoys and self.in_flight == 0


@dataclass(frozen=True, slots=True)
class Primary:
    """What one control plane last reported about the primary.

    It has no say if the service is not `followed`. Of its `envoys`, `acknowledged` prefer
    `instance`.
    """

    followed: bool
    instance: str
    epoch: int
    envoys: int
    acknowledged: int

    def agrees(self, instance: str, epoch: int) -> bool:
        """Whether all its Envoys prefer the instance as elected in that epoch or a later one."""
        right = self.instance == instance and self.epoch >= epoch
        return not self.followed or (right and self.acknowledged == self.envoys)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many control planes follow a service, and how many Envoys follow them."""

    planes: int = 0
    envoys: int = 0


@dataclass(frozen=True, slots=True)
class Failures:
    """What clients sent within some seconds, and how much of it failed.

    The figures come from `counted` control planes. They lack requests at the Envoys of the others:
    `unmeasured` ones report that they did not count over the whole span; `unknown` ones did not
    answer, or cannot be seen, and may report later.
    """

    requests: int
    failures: int
    counted: int = 1
    unmeasured: int = 0
    unknown: int = 0


def watch_drain(
    directory: PlaneDirectory, service: str, instance: str, clock: Clock
) -> AbstractAsyncContextManager[Reports[Drain]]:
    """The control planes' reports on an instance's withdrawal, while the context lasts."""
    request = control_plane_pb2.WatchDrainRequest(service=service, instance=instance)

    async def reports(stub: Any) -> AsyncIterator[Drain]:
        async for response in stub.WatchDrain(request):
            yield Drain(
                response.envoys,
                response.envoys_acknowledged,
                response.envoys_reported,
                response.requests_in_flight,
                frozenset(response.nodes),
            )

    return watching(directory, reports, clock)


def watch_primary(
    directory: Directory, service: str, clock: Clock
) -> AbstractAsyncContextManager[Reports[Primary]]:
    """The control planes' reports on the primary, while the context lasts."""
    request = control_plane_pb2.WatchPrimaryRequest(service=service)

    async def reports(stub: Any) -> AsyncIterator[Primary]:
        async for response in stub.WatchPrimary(request):
            yield Primary(
                response.followed,
                response.instance,
                response.epoch,
                response.envoys,
                response.envoys_acknowledged,
            )

    return watching(directory, reports, clock)


async def primary_acknowledged(
    directory: PlaneDirectory,
    service: str,
    instance: str,
    epoch: int,
    clock: Clock,
    warn: Callable[[str], None],
) -> Agreement:
    """Return once every control plane and all their Envoys prefer an instance.

    If provably no control plane is registered, no Envoy follows the catalog, and this returns at
    once. It waits while Consul or a control plane does not answer: the caller sets the deadline.

    Args:
        directory: where control planes are found.
        service: the service in question.
        instance: the new primary.
        epoch: in which it was elected; waits for control planes that still follow an older one.
        clock: paces reconnects.
        warn: called with why there may be unseen control planes, for which it waits too.
    """
    async with watch_primary(directory, service, clock) as reports:
        async for current in with_warnings(reports, warn):
            known = [report for report in current.reports if report is not None]
            complete = not current.incomplete and len(known) == len(current.reports)
            if complete and all(report.agrees(instance, epoch) for report in known):
                following = [report for report in known if report.followed]
                return Agreement(len(following), sum(report.envoys for report in following))
    raise AssertionError("a cell has no end")


async def with_warnings(
    reports: Reports[T], warn: Callable[[str], None]
) -> AsyncIterator[PlaneReports[T]]:
    """All reports; `warn` is called with each new reason why they may be incomplete."""
    warned = ""
    async for current in reports:
        if current.incomplete not in ("", NOT_LISTED_YET, warned):
            warned = current.incomplete
            warn(warned)
        yield current


async def failures(directory: PlaneDirectory, service: str, seconds: float) -> Failures | None:
    """What clients sent within the last `seconds`, and what failed; None if none of it was counted.

    None means that every control plane has answered that it did not count, or that there are none.

    Raises:
        SidecarError: Consul does not answer, or its servers have no leader.
    """
    listing = await directory.listing()
    answers = await asyncio.gather(*(_count(plane, service, seconds) for plane in listing.planes))
    answered = [answer for answer in answers if answer is not None]
    counted = [answer for answer in answered if answer.measured]
    unknown = len(answers) - len(answered) + bool(listing.incomplete)
    if not counted and not unknown:
        return None
    return Failures(
        requests=sum(answer.requests for answer in counted),
        failures=sum(answer.failures for answer in counted),
        counted=len(counted),
        unmeasured=len(answered) - len(counted),
        unknown=unknown,
    )


async def ask(address: str, call: Callable[[Any], Awaitable[T]]) -> T:
    """One control plane's answer to an operator's query.

    Args:
        address: its `host:port`.
        call: makes the call on a stub of sidecar.v1.ControlPlaneService.

    Raises:
        Unavailable: it does not answer.
        Rejected: it is no control plane, or an older version that lacks the method.
    """
    async with stub_at(address) as stub:
        try:
            return await asyncio.wait_for(call(stub), _TIMEOUT)
        except TimeoutError:
            raise DeadlineExceeded(f"{address}: no answer within {_TIMEOUT:g} s") from None
        except grpc.RpcError as error:
            raise _error(address, error) from None


def _error(address: str, error: Any) -> SidecarError:
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(f"{address}: no control plane answers: {error.details()}")
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return Rejected(f"{address}: the control plane does not support this request")
    return Rejected(f"{address}: {error.code().name}: {error.details()}")


async def _count(plane: ServiceEntry, service: str, seconds: float) -> Any:
    """A control plane's answer; None if it does not answer."""
    request = control_plane_pb2.GetFailuresRequest(service=service, seconds=seconds)
    async with stub_at(join_address(plane.address, plane.port)) as stub:
        try:
            return await stub.GetFailures(request, timeout=_TIMEOUT)
        except grpc.RpcError:
            return None
