"""One Envoy's subscription to one resource type: what it wants, what it has, what to send next.

The xDS transport protocol as state machines without I/O, in two variants (`delta.py` and
`sotw.py`): `receive` takes a request, `offer` takes the newest snapshot and returns the response
that is due, if any. At most one response per type is outstanding; a slow Envoy gets the newest
state once it has answered, and skips those in between.
Source: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from sidecar.xds.config.snapshot import CLUSTER, LISTENER, Resource, Snapshot

NOTHING: frozenset[str] = frozenset()

# Types that a client may subscribe to without names, meaning all.
WILDCARD_TYPES = (CLUSTER, LISTENER)


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """A response to send, and its part of the snapshot.

    `news` is False if nothing has changed, and Envoy only gets what it requested.
    """

    type_url: str
    nonce: str
    version: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...]
    snapshot: Snapshot
    news: bool


@dataclass(frozen=True, slots=True)
class Acked:
    """Envoy uses the response (ACK)."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Nacked:
    """Envoy rejected the response and keeps its earlier state (NACK), for the `reason` it gives."""

    reply: Reply
    reason: str


Outcome = Acked | Nacked | None


class Subscription(ABC):
    """One type on one stream."""

    def __init__(self, type_url: str) -> None:
        self.type_url = type_url
        self.wildcard = False
        self.names: set[str] = set()
        # By resource, the part about it of the snapshot last acknowledged on this stream: a
        # listener must not keep the endpoints of its time in memory.
        self.acknowledged: dict[str, Snapshot] = {}
        # By resource, the version that was rejected, unless one was accepted since.
        self.nacked: dict[str, str] = {}
        # The version of the last accepted response, as Envoy's admin pages show it.
        self.accepted = ""
        # Whether Envoy had resources from an earlier stream.
        self.resumed = False
        self.pending: Reply | None = None
        self._asked = False
        self._sent = 0

    @abstractmethod
    def receive(self, request: Any) -> Outcome:
        """Process a request; returns the outcome of the response that it answers."""

    @abstractmethod
    def offer(self, snapshot: Snapshot, protected: AbstractSet[str] = NOTHING) -> Reply | None:
        """The response that is due, which counts as sent; None if there is nothing to send.

        `protected` resources are not removed yet.
        """

    @abstractmethod
    def resend(self, names: Iterable[str]) -> None:
        """Send these resources again even if unchanged, provided they are subscribed to."""

    @property
    def known(self) -> AbstractSet[str]:
        """The resources that Envoy has, in any version."""
        return self.acknowledged.keys()

    @abstractmethod
    def removing(self, name: str) -> bool:
        """Whether the outstanding response removes the resource from Envoy."""

    @property
    def rejecting(self) -> bool:
        """Whether Envoy has rejected something that is still published."""
        return bool(self.nacked)

    def clear_nacks(self, snapshot: Snapshot) -> None:
        """Forget rejections of resources that are no longer published, or that Envoy now has."""
        self.nacked = {
            name: version
            for name, version in self.nacked.items()
            if (found := snapshot.of(self.type_url).get(name)) is not None
            and self.wants(name)
            and self.holds(name) != found.version
        }

    def wants(self, name: str) -> bool:
        """Whether the resource is subscribed to."""
        return self.wildcard or name in self.names

    def behind(self, snapshot: Snapshot) -> bool:
        """Whether Envoy has not yet acknowledged some of the snapshot."""
        return any(
            self.holds(name) != found.version for name, found in self.wanted(snapshot).items()
        )

    @abstractmethod
    def adopt(self, snapshot: Snapshot) -> None:
        """Count what Envoy already has as acknowledged, if it matches the snapshot."""

    def holds(self, name: str) -> str | None:
        """The version of a resource that was last acknowledged on this stream."""
        snapshot = self.acknowledged.get(name)
        return snapshot.of(self.type_url)[name].version if snapshot else None

    def wanted(self, snapshot: Snapshot) -> dict[str, Resource]:
        """The resources of the snapshot that are subscribed to."""
        existing = snapshot.of(self.type_url)
        return {name: existing[name] for name in existing if self.wants(name)}

    def _settle(self, nonce: str, rejection: str | None) -> Outcome:
        """Match an answer to the outstanding response; a stale nonce matches none."""
        if self.pending is None or nonce != self.pending.nonce:
            return None
        reply, self.pending = self.pending, None
        if rejection is not None:
            return Nacked(reply, rejection)
        self.acknowledged |= {
            resource.name: reply.snapshot.part(self.type_url, (resource.name,))
            for resource in reply.resources
        }
        for name in reply.removed:
            self.acknowledged.pop(name, None)
        self.accepted = reply.version
        return Acked(reply)

    def _send(
        self,
        snapshot: Snapshot,
        version: str,
        found: Iterable[Resource],
        removed: Iterable[str],
        news: bool,
    ) -> Reply:
        self._sent += 1
        nonce, confirmed = str(self._sent), tuple(found)
        part = snapshot.part(self.type_url, (resource.name for resource in confirmed))
        reply = Reply(self.type_url, nonce, version, confirmed, tuple(removed), part, news)
        self.pending = reply
        return reply
