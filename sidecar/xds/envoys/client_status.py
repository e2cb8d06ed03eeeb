"""What is known of each Envoy, and how it stands to what is published."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sidecar.xds.ads.ads_stream import AdsStream
from sidecar.xds.ads.subscription import Subscription
from sidecar.xds.config.snapshot import ORDER, Resource, Snapshot


class ResourceStatus(StrEnum):
    """How an Envoy stands to one resource that it wants. Names as in CSDS."""

    SYNCED = "SYNCED"
    STALE = "STALE"  # it has an older version, or has not answered yet
    ERROR = "ERROR"  # it has refused this version
    NOT_SENT = "NOT_SENT"


@dataclass(frozen=True, slots=True)
class Nack:
    """What an Envoy has refused, in its own words, and when (Unix seconds)."""

    version: str
    reason: str
    at: float


class Stream(Protocol):
    """What is read of an ADS stream; times are monotonic seconds, as in `envoys.EnvoyStream`."""

    @property
    def conversation(self) -> AdsStream:
        """What was said on it."""

    @property
    def node(self) -> str:
        """The Envoy's id from its bootstrap."""

    @property
    def since(self) -> float:
        """When it was opened."""

    @property
    def behind(self) -> float | None:
        """Since when something of what is published is not confirmed."""

    @property
    def refusals(self) -> Mapping[str, Nack]:
        """What was refused and not taken back, by type."""


@dataclass(frozen=True, slots=True)
class ResourceState:
    """One published resource at one Envoy; `held` is the version that it has confirmed, or ""."""

    resource: Resource
    held: str
    standing: ResourceStatus


@dataclass(frozen=True, slots=True)
class TypeState:
    """One type at one Envoy.

    `accepted` is the version that Envoy's own pages show; empty before it has acknowledged any.
    """

    type_url: str
    accepted: str
    pending: bool
    refusal: Nack | None
    resources: tuple[ResourceState, ...]

    @property
    def behind(self) -> tuple[ResourceState, ...]:
        """Those that Envoy does not have as they are published."""
        return tuple(each for each in self.resources if each.standing is not ResourceStatus.SYNCED)


@dataclass(frozen=True, slots=True)
class Client:
    """One Envoy. `connected` and `lag` in seconds; a lag of 0 means that it has everything."""

    node: str
    protocol: str
    connected: float
    lag: float
    types: tuple[TypeState, ...]


def client(stream: Stream, snapshot: Snapshot | None, now: float) -> Client:
    """How an Envoy stands to a snapshot at the time `now` (monotonic seconds)."""
    return Client(
        node=stream.node,
        protocol=stream.conversation.protocol,
        connected=max(0.0, now - stream.since),
        lag=0.0 if stream.behind is None else max(0.0, now - stream.behind),
        types=tuple(_types(stream, snapshot)),
    )


def _types(stream: Stream, snapshot: Snapshot | None) -> Iterator[TypeState]:
    subscriptions = stream.conversation.subscriptions
    put = stream.conversation.put(snapshot) if snapshot else None
    for type_url in ORDER:
        found = subscriptions.get(type_url)
        if found is None:
            continue
        wanted = found.wanted(put) if put else {}
        yield TypeState(
            type_url=type_url,
            accepted=found.accepted,
            pending=found.pending is not None,
            refusal=stream.refusals.get(type_url),
            resources=tuple(_state(found, wanted[name]) for name in sorted(wanted)),
        )


def _state(subscription: Subscription, resource: Resource) -> ResourceState:
    held = subscription.holds(resource.name) or ""
    return ResourceState(resource, held, _standing(subscription, resource, held))


def _standing(subscription: Subscription, resource: Resource, held: str) -> ResourceStatus:
    if held == resource.version:
        return ResourceStatus.SYNCED
    if subscription.refused.get(resource.name) == resource.version:
        return ResourceStatus.ERROR
    pending = subscription.pending.resources if subscription.pending else ()
    told = held or resource.name in subscription.known
    sent = told or any(each.name == resource.name for each in pending)
    return ResourceStatus.STALE if sent else ResourceStatus.NOT_SENT
