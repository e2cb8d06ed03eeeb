"""One resource type on a stream in the delta (incremental) variant of xDS."""

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
    """Each response holds what has changed since the last one."""

    def __init__(self, type_url: str) -> None:
        super().__init__(type_url)
        self._has: dict[str, str] = {}
        # Resources of a rejected response, to be resent one by one to find the bad one.
        self._suspects: set[str] = set()
        self._to_resend: set[str] = set()
        self._initial_due = False

    def receive(self, request: Any) -> Outcome:
        """Take a `DeltaDiscoveryRequest`."""
        rejection = request.error_detail.message if request.HasField("error_detail") else None
        outcome = self._settle(request.response_nonce, rejection)
        if outcome is not None:
            self._remember(outcome)
        names = set(request.resource_names_subscribe)
        if not self._asked:
            self._begin(dict(request.initial_resource_versions), names)
        else:
            # A repeated subscription is answered again. A subscription change counts whatever the
            # nonce: Envoy sends it only once.
            self._to_resend |= names
        self._subscribe(names)
        self._unsubscribe(set(request.resource_names_unsubscribe))
        return outcome

    def offer(self, snapshot: Snapshot, protected: AbstractSet[str] = NOTHING) -> Reply | None:
        """A `Reply` with whatever differs from Envoy's state, or is to be resent."""
        if not self._asked or self.pending:
            return None
        wanted = self.wanted(snapshot)
        changed = {name for name, found in wanted.items() if self._is_news(found)}
        due = changed | (wanted.keys() & self._to_resend)
        removed = self._removed(snapshot, protected)
        if suspects := sorted(due & self._suspects):
            due, removed = {suspects[0]}, set()
        if not due and not removed and not (self._initial_due and self.wildcard):
            return None
        first = not self.acknowledged
        self._initial_due = False
        self._to_resend -= due | removed
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
    def rejecting(self) -> bool:
        """See `Subscription`."""
        return bool(self.nacked or self._suspects)

    def adopt(self, snapshot: Snapshot) -> None:
        """See `Subscription`. Endpoints are resent, and count once they are acknowledged."""
        if self.type_url == ENDPOINT or not self.resumed:
            return
        for name, found in self.wanted(snapshot).items():
            if name not in self.acknowledged and self._has.get(name) == found.version:
                self.acknowledged[name] = snapshot.part(self.type_url, (name,))

    def clear_nacks(self, snapshot: Snapshot) -> None:
        """See `Subscription`."""
        super().clear_nacks(snapshot)
        if self._suspects:
            self._suspects &= self.wanted(snapshot).keys()

    def resend(self, names: Iterable[str]) -> None:
        """See `Subscription`."""
        self._to_resend |= {name for name in names if self.wildcard or name in self.names}

    def _begin(self, versions: dict[str, str], names: AbstractSet[str]) -> None:
        """The first request of a stream: Envoy lists the versions it has from an earlier one."""
        self._asked = self._initial_due = True
        self._has = versions
        self.resumed = bool(versions)
        self.wildcard = not names and self.type_url in WILDCARD_TYPES
        # Resources of the right version are not resent, except endpoints: a cluster may have been
        # waiting for them when the last stream broke.
        self._to_resend |= names if self.type_url == ENDPOINT else names - versions.keys()

    def _subscribe(self, names: AbstractSet[str]) -> None:
        if "*" in names:
            self.wildcard = self._initial_due = True
        self.names |= names - {"*"}
        self._to_resend.discard("*")

    def _unsubscribe(self, names: AbstractSet[str]) -> None:
        self.names -= names
        forgotten = set(names)
        if "*" in names:
            self.wildcard = False
            forgotten |= self._has.keys() | self.nacked.keys() | self._suspects
            forgotten -= self.names
        for name in forgotten:
            self._has.pop(name, None)
            self.nacked.pop(name, None)
            self.acknowledged.pop(name, None)
        self._suspects -= forgotten
        self._to_resend -= forgotten
        if self.wildcard:  # still covered by the wildcard
            self._to_resend |= forgotten

    def _is_news(self, found: Resource) -> bool:
        known = (self._has.get(found.name), self.nacked.get(found.name))
        return found.version not in known

    def _removed(self, snapshot: Snapshot, protected: AbstractSet[str]) -> set[str]:
        """Missing resources that Envoy has or requests. Endpoints go only with their cluster."""
        gone = (self._has.keys() | self._to_resend) - snapshot.of(self.type_url).keys() - protected
        return gone - snapshot.of(CLUSTER).keys() if self.type_url == ENDPOINT else gone

    def _remember(self, outcome: Acked | Nacked) -> None:
        reply = outcome.reply
        versions = {resource.name: resource.version for resource in reply.resources}
        for name in reply.removed:
            self._has.pop(name, None)
        if isinstance(outcome, Nacked) and len(versions) > 1:
            self._suspects |= versions.keys()
            self._to_resend |= versions.keys()
            return
        self._suspects -= versions.keys()
        if isinstance(outcome, Nacked):
            self.nacked |= versions
            return
        self._has |= versions
        for name in versions:
            self.nacked.pop(name, None)
