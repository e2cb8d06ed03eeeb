"""One type on a stream in the variant of the protocol that says only what has changed."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any

from sidecar.xds.ads.subscription import (
    NOTHING,
    WILDCARD_TYPES,
    Acked,
    Nacked,
    Outcome,
    Reply,
    Subscription,
)
from sidecar.xds.config.snapshot import CLUSTER, ENDPOINT, Resource, Snapshot, digest_of


class DeltaResponder(Subscription):
    """A reply holds what has changed since the last one."""

    def __init__(self, type_url: str) -> None:
        super().__init__(type_url)
        self._has: dict[str, str] = {}
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

    def offer(self, snapshot: Snapshot, spared: AbstractSet[str] = NOTHING) -> Reply | None:
        """A `Reply` with what differs from what Envoy has, or is owed."""
        if not self._asked or self.pending:
            return None
        wanted = self.wanted(snapshot)
        changed = {name for name, found in wanted.items() if self._is_news(found)}
        due = changed | (wanted.keys() & self._owed)
        removed = self._removed(snapshot, spared)
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

    @property
    def known(self) -> AbstractSet[str]:
        """See `Subscription`."""
        return self._has.keys()

    def removing(self, name: str) -> bool:
        """See `Subscription`."""
        return self.pending is not None and name in self.pending.removed

    @property
    def refusing(self) -> bool:
        """See `Subscription`."""
        return bool(self.refused or self._suspects)

    def adopt(self, snapshot: Snapshot) -> None:
        """See `Subscription`. Endpoints are told again, and count when that is acknowledged."""
        if self.type_url == ENDPOINT or not self.resumed:
            return
        for name, found in self.wanted(snapshot).items():
            if name not in self.acknowledged and self._has.get(name) == found.version:
                self.acknowledged[name] = snapshot.part(self.type_url, (name,))

    def forgive(self, snapshot: Snapshot) -> None:
        """See `Subscription`."""
        super().forgive(snapshot)
        if self._suspects:
            self._suspects &= self.wanted(snapshot).keys()

    def owe(self, names: Iterable[str]) -> None:
        """See `Subscription`."""
        self._owed |= {name for name in names if self.wildcard or name in self.names}

    def _begin(self, versions: dict[str, str], names: AbstractSet[str]) -> None:
        """A new stream; Envoy says what it has from an earlier one."""
        self._asked = self._greet = True
        self._has = versions
        self.resumed = bool(versions)
        self.wildcard = not names and self.type_url in WILDCARD_TYPES
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
            forgotten |= self._has.keys() | self.refused.keys() | self._suspects
            forgotten -= self.names
        for name in forgotten:
            self._has.pop(name, None)
            self.refused.pop(name, None)
            self.acknowledged.pop(name, None)
        self._suspects -= forgotten
        self._owed -= forgotten
        if self.wildcard:  # still wanted, as one of all
            self._owed |= forgotten

    def _is_news(self, found: Resource) -> bool:
        known = (self._has.get(found.name), self.refused.get(found.name))
        return found.version not in known

    def _removed(self, snapshot: Snapshot, spared: AbstractSet[str]) -> set[str]:
        """What Envoy has or asks for and does not exist. Endpoints go only with their cluster."""
        gone = (self._has.keys() | self._owed) - snapshot.of(self.type_url).keys() - spared
        return gone - snapshot.of(CLUSTER).keys() if self.type_url == ENDPOINT else gone

    def _remember(self, outcome: Acked | Nacked) -> None:
        reply = outcome.reply
        versions = {resource.name: resource.version for resource in reply.resources}
        for name in reply.removed:
            self._has.pop(name, None)
        if isinstance(outcome, Nacked) and len(versions) > 1:
            self._suspects |= versions.keys()
            self._owed |= versions.keys()
            return
        self._suspects -= versions.keys()
        if isinstance(outcome, Nacked):
            self.refused |= versions
            return
        self._has |= versions
        for name in versions:
            self.refused.pop(name, None)
