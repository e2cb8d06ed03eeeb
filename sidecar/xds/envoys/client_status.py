"""What is known about each Envoy, and how far it lags behind the published snapshot."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sidecar.xds.ads.ads_stream import AdsStream
from sidecar.xds.ads.subscription import Subscription
from sidecar.xds.config.snapshot import ORDER, Resource, Snapshot


class ResourceStatus(StrEnum):
    """An Envoy's status for one resource that it wants. Names as in CSDS."""

    SYNCED = "SYNCED"
    STALE = "STALE"  # it has an older version, or has not answered yet
    ERROR = "ERROR"  # it rejected this version (NACK)
    NOT_SENT = "NOT_SENT"


@dataclass(frozen=True, slots=True)
class Nack:
    """The version that an Envoy rejected, its error message, and when (Unix seconds)."""

    version: str
    reason: str
    at: float


class Stream(Protocol):
    """What is read of an ADS stream; times are monotonic seconds, as in `EnvoyStream`."""

    @property
    def ads(self) -> AdsStream:
        """Its protocol state."""

    @property
    def node(self) -> str:
        """The node id from Envoy's bootstrap."""

    @property
    def since(self) -> float:
        """When it was opened."""

    @property
    def behind(self) -> float | None:
        """Since when Envoy has not acknowledged everything published; None if it has."""

    @property
    def nacks(self) -> Mapping[str, Nack]:
        """By type, what was rejected and not accepted since."""


@dataclass(frozen=True, slots=True)
class ResourceState:
    """One published resource at one Envoy; `held` is the version it acknowledged, or ""."""

    resource: Resource
    held: str
    status: ResourceStatus


@dataclass(frozen=True, slots=True)
class TypeState:
    """One type at one Envoy.

    `accepted` is the version that Envoy's admin pages show; empty before its first acknowledgement.
    """

    type_url: str
    accepted: str
    pending: bool
    nack: Nack | None
    resources: tuple[ResourceState, ...]

    @property
    def behind(self) -> tuple[ResourceState, ...]:
        """Those of which Envoy lacks the published version."""
        return tuple(each for each in self.resources if each.status is not ResourceStatus.SYNCED)


@dataclass(frozen=True, slots=True)
class Client:
    """One Envoy. `connected` and `lag` in seconds; a lag of 0 means that it is up to date."""

    node: str
    protocol: str
    connected: float
    lag: float
    types: tuple[TypeState, ...]


def client(stream: Stream, snapshot: Snapshot | None, now: float) -> Client:
    """An Envoy's status against a snapshot at the time `now` (monotonic seconds)."""
    return Client(
        node=stream.node,
        protocol=stream.ads.protocol,
        connected=max(0.0, now - stream.since),
        lag=0.0 if stream.behind is None else max(0.0, now - stream.behind),
        types=tuple(_types(stream, snapshot)),
    )


def _types(stream: Stream, snapshot: Snapshot | None) -> Iterator[TypeState]:
    subscriptions = stream.ads.subscriptions
    adapted = stream.ads.adapted(snapshot) if snapshot else None
    for type_url in ORDER:
        found = subscriptions.get(type_url)
        if found is None:
            continue
        wanted = found.wanted(adapted) if adapted else {}
        yield TypeState(
            type_url=type_url,
            accepted=found.accepted,
            pending=found.pending is not None,
            nack=stream.nacks.get(type_url),
            resources=tuple(_state(found, wanted[name]) for name in sorted(wanted)),
        )


def _state(subscription: Subscription, resource: Resource) -> ResourceState:
    held = subscription.holds(resource.name) or ""
    return ResourceState(resource, held, _status(subscription, resource, held))


def _status(subscription: Subscription, resource: Resource, held: str) -> ResourceStatus:
    if held == resource.version:
        return ResourceStatus.SYNCED
    if subscription.nacked.get(resource.name) == resource.version:
        return ResourceStatus.ERROR
    pending = subscription.pending.resources if subscription.pending else ()
    known = held or resource.name in subscription.known
    sent = known or any(each.name == resource.name for each in pending)
    return ResourceStatus.STALE if sent else ResourceStatus.NOT_SENT
