"""What sidecars and operators ask the control planes; gRPC's errors end here.

Each control plane speaks for the Envoys that are connected to it, so a caller has to ask all
of them. `plane_watch.py` knows how they are found and followed.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from sidecar.consul.api import ServiceEntry
from sidecar.control_planes.membership import NOT_ASKED, Heard
from sidecar.control_planes.watch import Register, stub_at, watching
from sidecar.runtime.addresses import join_address
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import DeadlineExceeded, Rejected, SidecarError, Unavailable
from sidecar.runtime.latest import Latest
from sidecar.v1 import control_plane_pb2

_TIMEOUT = 5.0  # seconds for a question with one answer

T = TypeVar("T")
# The last word of each control plane, and why there may be others.
Words = Latest[Heard[T]]


@dataclass(frozen=True, slots=True)
class Drain:
    """What one control plane last said of an instance that withdraws.

    `acknowledged` of its `envoys` give the instance nothing new, and `reported` of those have said
    since what is in flight on it. `nodes` are the ids of its Envoys; an older one does not tell.
    """

    envoys: int
    acknowledged: int
    reported: int
    in_flight: int
    nodes: frozenset[str] = frozenset()

    @property
    def done(self) -> bool:
        """Whether no Envoy of this control plane has work on the instance, for certain."""
        return self.acknowledged == self.reported == self.envoys and self.in_flight == 0


@dataclass(frozen=True, slots=True)
class Primary:
    """What one control plane last said of who is preferred.

    One for which the service is not `followed` has no say. `acknowledged` of its `envoys` give
    `instance` their requests.
    """

    followed: bool
    instance: str
    epoch: int
    envoys: int
    acknowledged: int

    def agrees(self, instance: str, epoch: int) -> bool:
        """Whether all its Envoys prefer the instance as elected in that epoch or a later one."""
        believed = self.instance == instance and self.epoch >= epoch
        return not self.followed or (believed and self.acknowledged == self.envoys)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many control planes have a say on a service, and how many Envoys follow them."""

    planes: int = 0
    envoys: int = 0


@dataclass(frozen=True, slots=True)
class Failures:
    """What clients sent within some seconds, and what of it failed.

    So `counted` control planes say. Missing are the requests at the Envoys of the others:
    `unmeasured` ones say that they have not counted over the whole span; `unknown` ones did not
    answer, or may not be seen, and may tell later.
    """

    requests: int
    failures: int
    counted: int = 1
    unmeasured: int = 0
    unknown: int = 0


def watch_drain(
    register: Register, service: str, instance: str, clock: Clock
) -> AbstractAsyncContextManager[Words[Drain]]:
    """What the control planes say of an instance's withdrawal, while the context lasts."""
    request = control_plane_pb2.WatchDrainRequest(service=service, instance=instance)

    async def words(stub: Any) -> AsyncIterator[Drain]:
        async for said in stub.WatchDrain(request):
            yield Drain(
                said.envoys,
                said.envoys_acknowledged,
                said.envoys_reported,
                said.requests_in_flight,
                frozenset(said.nodes),
            )

    return watching(register, words, clock)


def watch_primary(
    register: Register, service: str, clock: Clock
) -> AbstractAsyncContextManager[Words[Primary]]:
    """Who the control planes say is preferred, while the context lasts."""
    request = control_plane_pb2.WatchPrimaryRequest(service=service)

    async def words(stub: Any) -> AsyncIterator[Primary]:
        async for said in stub.WatchPrimary(request):
            yield Primary(
                said.followed, said.instance, said.epoch, said.envoys, said.envoys_acknowledged
            )

    return watching(register, words, clock)


async def acknowledged(
    register: Register,
    service: str,
    instance: str,
    epoch: int,
    clock: Clock,
    doubted: Callable[[str], None],
) -> Agreement:
    """Return once every control plane and all their Envoys prefer an instance.

    Where it is proven that no control plane is registered no Envoy follows the catalog, and there
    is nothing to wait for. While Consul or a control plane does not answer it waits: the caller
    sets the deadline.

    Args:
        register: where control planes are found.
        service: the service that they are asked about.
        instance: the new primary.
        epoch: in which it was elected; control planes that believe in an older one are waited for.
        clock: paces attempts to reconnect.
        doubted: told why there may be control planes that are not seen, which are waited for too.
    """
    async with watch_primary(register, service, clock) as words:
        async for heard in telling(words, doubted):
            said = [word for word in heard.words if word is not None]
            known = not heard.doubt and len(said) == len(heard.words)
            if known and all(word.agrees(instance, epoch) for word in said):
                concerned = [word for word in said if word.followed]
                return Agreement(len(concerned), sum(word.envoys for word in concerned))
    raise AssertionError("a cell has no end")


async def telling(words: Words[T], doubted: Callable[[str], None]) -> AsyncIterator[Heard[T]]:
    """All that is heard; the caller is told of each new doubt about it."""
    told = ""
    async for heard in words:
        if heard.doubt not in ("", NOT_ASKED, told):
            told = heard.doubt
            doubted(told)
        yield heard


async def failures(register: Register, service: str, seconds: float) -> Failures | None:
    """What clients sent within the last `seconds`, and what failed; None if nobody has counted.

    That nobody has is what every control plane says, or there is none, for certain.

    Raises:
        SidecarError: Consul does not answer, or its servers have no leader.
    """
    listing = await register.listing()
    answers = await asyncio.gather(*(_count(plane, service, seconds) for plane in listing.planes))
    heard = [answer for answer in answers if answer is not None]
    counted = [answer for answer in heard if answer.measured]
    unknown = len(answers) - len(heard) + bool(listing.doubt)
    if not counted and not unknown:
        return None
    return Failures(
        requests=sum(answer.requests for answer in counted),
        failures=sum(answer.failures for answer in counted),
        counted=len(counted),
        unmeasured=len(heard) - len(counted),
        unknown=unknown,
    )


async def ask(address: str, question: Callable[[Any], Awaitable[T]]) -> T:
    """What one control plane says to a question of an operator.

    Args:
        address: its `host:port`.
        question: asks a stub of sidecar.v1.ControlPlaneService.

    Raises:
        Unavailable: it does not answer.
        Rejected: it is not one, or an older one that does not know the question.
    """
    async with stub_at(address) as stub:
        try:
            return await asyncio.wait_for(question(stub), _TIMEOUT)
        except TimeoutError:
            raise DeadlineExceeded(f"{address}: no answer within {_TIMEOUT:g} s") from None
        except grpc.RpcError as error:
            raise _refusal(address, error) from None


def _refusal(address: str, error: Any) -> SidecarError:
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(f"{address}: no control plane answers: {error.details()}")
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return Rejected(f"{address}: the control plane does not support this request")
    return Rejected(f"{address}: {error.code().name}: {error.details()}")


async def _count(plane: ServiceEntry, service: str, seconds: float) -> Any:
    """What a control plane answers; None if it does not."""
    request = control_plane_pb2.GetFailuresRequest(service=service, seconds=seconds)
    async with stub_at(join_address(plane.address, plane.port)) as stub:
        try:
            return await stub.GetFailures(request, timeout=_TIMEOUT)
        except grpc.RpcError:
            return None
