"""One resource type on a stream in the state-of-the-world (SotW) variant of xDS."""

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
from sidecar.xds.config.snapshot import Snapshot, digest_of


class SotwResponder(Subscription):
    """Each response holds all subscribed resources."""

    def __init__(self, type_url: str) -> None:
        super().__init__(type_url)
        self._to_resend = False
        self._named = False
        self._has = ""
        self._nacked_version = ""

    def receive(self, request: Any) -> Outcome:
        """Take a `DiscoveryRequest`."""
        nonce = request.response_nonce
        if self._sent and nonce and nonce != str(self._sent):
            return None  # answers an older response; the answer to the newest one is in flight
        rejection = request.error_detail.message if request.HasField("error_detail") else None
        outcome = self._settle(nonce, rejection)
        if isinstance(outcome, Acked):
            self._has, self._nacked_version = outcome.reply.version, ""
            self.nacked = {}
            # What the response omits is gone.
            self.acknowledged = {
                resource.name: outcome.reply.snapshot for resource in outcome.reply.resources
            }
        elif isinstance(outcome, Nacked):
            self._nacked_version = outcome.reply.version
            self.nacked = {found.name: found.version for found in outcome.reply.resources}
        if not self._asked:
            self.resumed = bool(request.version_info)
        self._subscribe(set(request.resource_names))
        return outcome

    def offer(self, snapshot: Snapshot, protected: AbstractSet[str] = NOTHING) -> Reply | None:
        """A `Reply` with every subscribed resource; what it omits is removed.

        A named subscription to resources that do not exist is not answered: for endpoints that
        would mean that there are none.
        """
        if not self._asked or self.pending:
            return None
        wanted = self.wanted(snapshot)
        version = digest_of(wanted.values())
        news = version not in (self._has, self._nacked_version)
        if not self.wildcard:  # a subscription by name ignores what is omitted
            news = news and any(self.holds(name) != wanted[name].version for name in wanted)
        if not (news or self._to_resend) or not (wanted or self.wildcard):
            return None
        first = not self.acknowledged
        self._to_resend = False
        return self._send(snapshot, version, wanted.values(), (), news and not first)

    def removing(self, name: str) -> bool:
        """See `Subscription`. A subscription by name ignores what a response omits."""
        if self.pending is None or not self.wildcard:
            return False
        return all(found.name != name for found in self.pending.resources)

    def adopt(self, snapshot: Snapshot) -> None:
        """See `Subscription`. Envoy sends only a version, so what it requests is sent again."""

    def resend(self, names: Iterable[str]) -> None:
        """See `Subscription`."""
        self._to_resend = self._to_resend or self.wildcard or not self.names.isdisjoint(names)

    def _subscribe(self, names: set[str]) -> None:
        # Naming nothing means everything until a name was given; afterwards it means nothing.
        self._named = self._named or bool(names)
        legacy = not self._named and self.type_url in WILDCARD_TYPES
        everything = legacy or "*" in names
        names.discard("*")
        more = bool(names - self.names) or (everything and not self.wildcard)
        self._to_resend = self._to_resend or more or not self._asked
        self.names, self.wildcard, self._asked = names, everything, True
        self.acknowledged = {
            name: each for name, each in self.acknowledged.items() if self.wants(name)
        }
