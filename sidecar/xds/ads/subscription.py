"""What one Envoy wants of one type, what it has, and what to tell it next.

The xDS transport protocol as state machines without I/O, in two variants (`delta.py` and
`state_of_the_world.py`): `receive` takes a request, `offer` takes the newest snapshot and gives the
reply that is due, if any. At most one reply per type is under way; a slow Envoy is told the newest
state when it has answered, and never the ones in between.
Source: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from sidecar.xds.config.snapshot import CLUSTER, LISTENER, Resource, Snapshot

NOTHING: frozenset[str] = frozenset()

# Types that a client may ask for without a name, meaning all.
WILDCARD_TYPES = (CLUSTER, LISTENER)


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """What to send, and what the snapshot it is from says of that.

    `news` is False where nothing has changed and Envoy is only told what it asked for.
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
    """Envoy uses what the reply said."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Nacked:
    """Envoy keeps what it had before the reply, for the reason it gives."""

    reply: Reply
    reason: str


Outcome = Acked | Nacked | None


class Subscription(ABC):
    """One type on one stream."""

    def __init__(self, type_url: str) -> None:
        self.type_url = type_url
        self.wildcard = False
        self.names: set[str] = set()
        # Per resource, of the snapshot whose version of it was last acknowledged on this stream
        # what is about it: a listener must not keep the endpoints of its day.
        self.acknowledged: dict[str, Snapshot] = {}
        # Per resource, the version that was refused, if none was accepted since.
        self.refused: dict[str, str] = {}
        # The version of the last reply that was accepted, as Envoy's own pages show it.
        self.accepted = ""
        # Whether Envoy came with something from an earlier stream.
        self.resumed = False
        self.pending: Reply | None = None
        self._asked = False
        self._sent = 0

    @abstractmethod
    def receive(self, request: Any) -> Outcome:
        """Take a request; say what became of the reply that it answers."""

    @abstractmethod
    def offer(self, snapshot: Snapshot, spared: AbstractSet[str] = NOTHING) -> Reply | None:
        """The reply that is due, which counts as sent; None if there is nothing to say.

        Nothing of what is `spared` is removed yet.
        """

    @abstractmethod
    def owe(self, names: Iterable[str]) -> None:
        """Tell those resources again even if they have not changed, if they are subscribed to."""

    @property
    def known(self) -> AbstractSet[str]:
        """The resources that Envoy has, in whatever version."""
        return self.acknowledged.keys()

    @abstractmethod
    def removing(self, name: str) -> bool:
        """Whether the reply that is under way takes the resource from Envoy."""

    @property
    def refusing(self) -> bool:
        """Whether Envoy was told something that it does not want."""
        return bool(self.refused)

    def forgive(self, snapshot: Snapshot) -> None:
        """Forget the refusal of what is not published any more, or Envoy has as it is."""
        self.refused = {
            name: version
            for name, version in self.refused.items()
            if (found := snapshot.of(self.type_url).get(name)) is not None
            and self.wants(name)
            and self.holds(name) != found.version
        }

    def wants(self, name: str) -> bool:
        """Whether the resource is subscribed to."""
        return self.wildcard or name in self.names

    def behind(self, snapshot: Snapshot) -> bool:
        """Whether Envoy has still to confirm something of the snapshot."""
        return any(
            self.holds(name) != found.version for name, found in self.wanted(snapshot).items()
        )

    @abstractmethod
    def adopt(self, snapshot: Snapshot) -> None:
        """Count as confirmed what Envoy came with, if it is what the snapshot says."""

    def holds(self, name: str) -> str | None:
        """The version of a resource that was last acknowledged on this stream."""
        snapshot = self.acknowledged.get(name)
        return snapshot.of(self.type_url)[name].version if snapshot else None

    def wanted(self, snapshot: Snapshot) -> dict[str, Resource]:
        """The resources of the snapshot that are subscribed to."""
        existing = snapshot.of(self.type_url)
        return {name: existing[name] for name in existing if self.wants(name)}

    def _settle(self, nonce: str, refusal: str | None) -> Outcome:
        """Match an answer to the reply that is under way; a stale nonce matches none."""
        if self.pending is None or nonce != self.pending.nonce:
            return None
        reply, self.pending = self.pending, None
        if refusal is not None:
            return Nacked(reply, refusal)
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
        nonce, told = str(self._sent), tuple(found)
        part = snapshot.part(self.type_url, (resource.name for resource in told))
        reply = Reply(self.type_url, nonce, version, told, tuple(removed), part, news)
        self.pending = reply
        return reply
