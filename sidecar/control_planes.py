"""The one door to the control planes, for sidecars and operators; gRPC's errors end here.

Each control plane speaks for the Envoys that are connected to it, so whoever wants to know asks all
of them. They are found in Consul, healthy or not: one that Consul cannot reach may serve Envoys.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import grpc.aio

from sidecar.clock import Clock
from sidecar.consul_api import ConsulApi, ServiceEntry
from sidecar.errors import DeadlineExceeded, Rejected, SidecarError, Unavailable
from sidecar.latest import Latest
from sidecar.settings.values import join_address
from sidecar.v1 import control_plane_pb2, control_plane_pb2_grpc

_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # for http_proxy is not meant for neighbours
    ("grpc.max_receive_message_length", -1),  # all that is published may be asked for
)
_RETRY = 0.5  # seconds between attempts to reach Consul or a control plane
_TIMEOUT = 5.0  # seconds for a question with one answer

T = TypeVar("T")
Planes = tuple[ServiceEntry, ...]
# The last word of each control plane, in their order; None of one that has said nothing yet.
Words = Latest[tuple[T | None, ...]]


@dataclass(frozen=True, slots=True)
class Drain:
    """What one control plane last said of an instance that withdraws.

    `acknowledged` of its `envoys` give the instance nothing new, and `reported` of those have said
    since what is in flight on it.
    """

    envoys: int
    acknowledged: int
    reported: int
    in_flight: int

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

    `unknown` control planes did not answer, or had not counted over the whole span: the requests
    of their Envoys are missing.
    """

    requests: int
    failures: int
    unknown: int = 0


async def planes(consul: ConsulApi, name: str) -> Planes:
    """All that are registered under the name.

    Raises:
        SidecarError: Consul does not answer.
    """
    return (await consul.health_service(name)).value


async def found(consul: ConsulApi, name: str, clock: Clock) -> Planes:
    """As `planes`, but ask until Consul answers."""
    while True:
        try:
            return await planes(consul, name)
        except SidecarError:  # the door has reported it
            await clock.sleep(_RETRY)


def watch_drain(
    asked: Planes, service: str, instance: str, clock: Clock
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
            )

    return _watching(asked, words, clock)


def watch_primary(
    asked: Planes, service: str, clock: Clock
) -> AbstractAsyncContextManager[Words[Primary]]:
    """Who the control planes say is preferred, while the context lasts."""
    request = control_plane_pb2.WatchPrimaryRequest(service=service)

    async def words(stub: Any) -> AsyncIterator[Primary]:
        async for said in stub.WatchPrimary(request):
            yield Primary(
                said.followed, said.instance, said.epoch, said.envoys, said.envoys_acknowledged
            )

    return _watching(asked, words, clock)


async def acknowledged(
    consul: ConsulApi, control_plane: str, service: str, instance: str, epoch: int, clock: Clock
) -> Agreement:
    """Return once every control plane and all their Envoys prefer an instance.

    Without any registered control plane no Envoy follows the catalog, and there is nothing to wait
    for. While Consul or a control plane does not answer it waits: the caller sets the deadline.

    Args:
        consul: where control planes are found.
        control_plane: the service under which they are registered.
        service: the service that they are asked about.
        instance: the new primary.
        epoch: in which it was elected; control planes that believe in an older one are waited for.
        clock: paces attempts to reconnect.
    """
    asked = await found(consul, control_plane, clock)
    if not asked:
        return Agreement()
    async with watch_primary(asked, service, clock) as words:
        async for said in words:
            heard = [word for word in said if word is not None]
            if len(heard) == len(asked) and all(word.agrees(instance, epoch) for word in heard):
                concerned = [word for word in heard if word.followed]
                return Agreement(len(concerned), sum(word.envoys for word in concerned))
    raise AssertionError("a cell has no end")


async def failures(
    consul: ConsulApi, control_plane: str, service: str, seconds: float
) -> Failures | None:
    """What clients sent within the last `seconds`, and what failed; None if nobody has counted.

    Raises:
        SidecarError: Consul does not answer.
    """
    asked = await planes(consul, control_plane)
    answers = await asyncio.gather(*(_count(plane, service, seconds) for plane in asked))
    counted = [answer for answer in answers if answer is not None and answer.measured]
    if not counted:
        return None
    return Failures(
        requests=sum(answer.requests for answer in counted),
        failures=sum(answer.failures for answer in counted),
        unknown=len(answers) - len(counted),
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
    async with _stub_at(address) as stub:
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
        return Rejected(f"{address}: expected a control plane that knows this question")
    return Rejected(f"{address}: {error.code().name}: {error.details()}")


async def _count(plane: ServiceEntry, service: str, seconds: float) -> Any:
    """What a control plane answers; None if it does not."""
    request = control_plane_pb2.GetFailuresRequest(service=service, seconds=seconds)
    async with _stub(plane) as stub:
        try:
            return await stub.GetFailures(request, timeout=_TIMEOUT)
        except grpc.RpcError:
            return None


@asynccontextmanager
async def _watching(
    asked: Planes, words: Callable[[Any], AsyncIterator[T]], clock: Clock
) -> AsyncGenerator[Words[T]]:
    newest: Words[T] = Latest((None,) * len(asked))
    followers = [
        asyncio.ensure_future(_follow(plane, place, newest, words, clock))
        for place, plane in enumerate(asked)
    ]
    try:
        yield newest
    finally:
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)


async def _follow(
    plane: ServiceEntry,
    place: int,
    newest: Words[T],
    words: Callable[[Any], AsyncIterator[T]],
    clock: Clock,
) -> None:
    """Keep one place of `newest` as the control plane says, reconnecting for ever."""
    while True:
        async with _stub(plane) as stub:
            try:
                async for word in words(stub):
                    before = newest.value
                    newest.set((*before[:place], word, *before[place + 1 :]))
            except grpc.RpcError:
                pass  # its last word stands; if it was not the one hoped for, the deadline decides
        await clock.sleep(_RETRY)


def _stub(plane: ServiceEntry) -> AbstractAsyncContextManager[Any]:
    return _stub_at(join_address(plane.address, plane.port))


@asynccontextmanager
async def _stub_at(address: str) -> AsyncGenerator[Any]:
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        yield control_plane_pb2_grpc.ControlPlaneServiceStub(channel)  # type: ignore[no-untyped-call]
