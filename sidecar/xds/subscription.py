"""What one Envoy wants of one type, what it has, and what to tell it next.

The xDS transport protocol in its two variants, as state machines without I/O: `receive` takes a
request, `offer` takes the newest snapshot and gives the reply that is due, if any. At most one
reply per type is under way; a slow Envoy is told the newest state when it has answered, and never
the ones in between. Source: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from sidecar.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, Resource, Snapshot, digest_of

# Types that a client may ask for without a name, meaning all.
_WILDCARD_TYPES = (CLUSTER, LISTENER)


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """What to send, and the snapshot it is from.

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
class Acknowledged:
    """Envoy uses what the reply said."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Refused:
    """Envoy keeps what it had before the reply, for the reason it gives."""

    reply: Reply
    reason: str


Outcome = Acknowledged | Refused | None


class Subscription(ABC):
    """One type on one stream."""

    def __init__(self, type_url: str) -> None:
        self.type_url = type_url
        self.wildcard = False
        self.names: set[str] = set()
        # Per resource, the snapshot whose version of it was last acknowledged on this stream.
        self.acknowledged: dict[str, Snapshot] = {}
        self._asked = False
        self._pending: Reply | None = None
        self._sent = 0

    @abstractmethod
    def receive(self, request: Any) -> Outcome:
        """Take a request; say what became of the reply that it answers."""

    @abstractmethod
    def offer(self, snapshot: Snapshot) -> Reply | None:
        """The reply that is due, which counts as sent; None if there is nothing to say."""

    @abstractmethod
    def owe(self, names: Iterable[str]) -> None:
        """Tell those resources again even if they have not changed, if they are subscribed to."""

    def holds(self, name: str) -> str | None:
        """The version of a resource that was last acknowledged on this stream."""
        snapshot = self.acknowledged.get(name)
        return snapshot.of(self.type_url)[name].version if snapshot else None

    def _wanted(self, snapshot: Snapshot) -> dict[str, Resource]:
        existing = snapshot.of(self.type_url)
        return {name: existing[name] for name in existing if self.wildcard or name in self.names}

    def _settle(self, nonce: str, refusal: str | None) -> Outcome:
        """Match an answer to the reply that is under way; a stale nonce matches none."""
        if self._pending is None or nonce != self._pending.nonce:
            return None
        reply, self._pending = self._pending, None
        if refusal is not None:
            return Refused(reply, refusal)
        self.acknowledged |= {resource.name: reply.snapshot for resource in reply.resources}
        for name in reply.removed:
            self.acknowledged.pop(name, None)
        return Acknowledged(reply)

    def _send(
        self,
        snapshot: Snapshot,
        version: str,
        found: Iterable[Resource],
        removed: Iterable[str],
        news: bool,
    ) -> Reply:
        self._sent += 1
        nonce = str(self._sent)
        reply = Reply(self.type_url, nonce, version, tuple(found), tuple(removed), snapshot, news)
        self._pending = reply
        return reply


class StateOfTheWorld(Subscription):
    """Every reply holds all resources that are subscribed to."""

    def __init__(self, type_url: str) -> None:
        super().__init__(type_url)
        self._owed = False
        self._named = False
        self._has = ""
        self._refused = ""

    def receive(self, request: Any) -> Outcome:
        """Take a `DiscoveryRequest`."""
        nonce = request.response_nonce
        if self._sent and nonce and nonce != str(self._sent):
            return None  # answers an older reply; the answer to the newest one is on its way
        refusal = request.error_detail.message if request.HasField("error_detail") else None
        outcome = self._settle(nonce, refusal)
        if isinstance(outcome, Acknowledged):
            self._has, self._refused = outcome.reply.version, ""
            # What the reply leaves out is gone.
            self.acknowledged = {
                resource.name: outcome.reply.snapshot for resource in outcome.reply.resources
            }
        elif isinstance(outcome, Refused):
            self._refused = outcome.reply.version
        self._subscribe(set(request.resource_names))
        return outcome

    def offer(self, snapshot: Snapshot) -> Reply | None:
        """A `Reply` with everything that is subscribed to.

        A named subscription to nothing that exists is not answered: for endpoints that would say
        that there are none.
        """
        if not self._asked or self._pending:
            return None
        wanted = self._wanted(snapshot)
        version = digest_of(wanted.values())
        news = version not in (self._has, self._refused)
        if not (news or self._owed) or not (wanted or self.wildcard):
            return None
        first = not self.acknowledged
        self._owed = False
        return self._send(snapshot, version, wanted.values(), (), news and not first)

    def owe(self, names: Iterable[str]) -> None:
        """See `Subscription`."""
        self._owed = self._owed or self.wildcard or not self.names.isdisjoint(names)

    def _subscribe(self, names: set[str]) -> None:
        # Before any name was given, naming none means all; afterwards it means none.
        self._named = self._named or bool(names)
        legacy = not self._named and self.type_url in _WILDCARD_TYPES
        everything = legacy or "*" in names
        names.discard("*")
        more = bool(names - self.names) or (everything and not self.wildcard)
        self._owed = self._owed or more or not self._asked
        self.names, self.wildcard, self._asked = names, everything, True


class Delta(Subscription):
    """A reply holds what has changed since the last one."""

    def __init__(self, type_url: str) -> None:
        super().__init__(type_url)
        self._has: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        # In a reply that was refused: told again one by one, to find out which of them is bad.
        self._suspects: set[str] = set()
        self._owed: set[str] = set()
        self._greet = False

    def receive(self, request: Any) -> Outcome:
        """Take a `DeltaDiscoveryRequest`."""
        refusal = request.error_detail.message if request.HasField("error_detail") else None
        outcome = self._settle(request.response_nonce, refusal)
        if outcome is not None:
            self._remember(outcome)
        names = set(request.resource_names_subscribe)
        if not self._asked:
            self._begin(dict(request.initial_resource_versions), names)
        else:
            # Asked for again is told again. A change of the subscription counts whatever the
            # nonce: it is said only once.
            self._owed |= names
        self._subscribe(names)
        self._unsubscribe(set(request.resource_names_unsubscribe))
        return outcome

    def offer(self, snapshot: Snapshot) -> Reply | None:
        """A `Reply` with what differs from what Envoy has, or is owed."""
        if not self._asked or self._pending:
            return None
        wanted = self._wanted(snapshot)
        changed = {name for name, found in wanted.items() if self._is_news(found)}
        due = changed | (wanted.keys() & self._owed)
        removed = self._removed(snapshot)
        if suspects := sorted(due & self._suspects):
            due, removed = {suspects[0]}, set()
        if not due and not removed and not (self._greet and self.wildcard):
            return None
        first = not self.acknowledged
        self._greet = False
        self._owed -= due | removed
        version = digest_of(snapshot.of(self.type_url).values())
        news = bool(changed & due or removed) and not first
        return self._send(
            snapshot, version, [wanted[name] for name in sorted(due)], sorted(removed), news
        )

    def owe(self, names: Iterable[str]) -> None:
        """See `Subscription`."""
        self._owed |= {name for name in names if self.wildcard or name in self.names}

    def _begin(self, versions: dict[str, str], names: AbstractSet[str]) -> None:
        """A new stream; Envoy says what it has from an earlier one."""
        self._asked = self._greet = True
        self._has = versions
        self.wildcard = not names and self.type_url in _WILDCARD_TYPES
        # What Envoy has of the right version need not be told again, except endpoints: a cluster
        # may have been waiting for them when the last stream broke.
        self._owed |= names if self.type_url == ENDPOINT else names - versions.keys()

    def _subscribe(self, names: AbstractSet[str]) -> None:
        if "*" in names:
            self.wildcard = self._greet = True
        self.names |= names - {"*"}
        self._owed.discard("*")

    def _unsubscribe(self, names: AbstractSet[str]) -> None:
        self.names -= names
        forgotten = set(names)
        if "*" in names:
            self.wildcard = False
            forgotten |= self._has.keys() - self.names
        for name in forgotten:
            self._has.pop(name, None)
            self._refused.pop(name, None)
            self.acknowledged.pop(name, None)
        self._owed -= forgotten
        if self.wildcard:  # still wanted, as one of all
            self._owed |= forgotten

    def _is_news(self, found: Resource) -> bool:
        known = (self._has.get(found.name), self._refused.get(found.name))
        return found.version not in known

    def _removed(self, snapshot: Snapshot) -> set[str]:
        """What Envoy has or asks for and does not exist. Endpoints go only with their cluster."""
        gone = (self._has.keys() | self._owed) - snapshot.of(self.type_url).keys()
        return gone - snapshot.of(CLUSTER).keys() if self.type_url == ENDPOINT else gone

    def _remember(self, outcome: Acknowledged | Refused) -> None:
        reply = outcome.reply
        versions = {resource.name: resource.version for resource in reply.resources}
        for name in reply.removed:
            self._has.pop(name, None)
        if isinstance(outcome, Refused) and len(versions) > 1:
            self._suspects |= versions.keys()
            self._owed |= versions.keys()
            return
        self._suspects -= versions.keys()
        if isinstance(outcome, Refused):
            self._refused |= versions
            return
        self._has |= versions
        for name in versions:
            self._refused.pop(name, None)
