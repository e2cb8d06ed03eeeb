"""One type on a stream in the variant of the protocol that says everything every time."""

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
    """Every reply holds all resources that are subscribed to."""

    def __init__(self, type_url: str) -> None:
        super().__init__(type_url)
        self._owed = False
        self._named = False
        self._has = ""
        self._refused_version = ""

    def receive(self, request: Any) -> Outcome:
        """Take a `DiscoveryRequest`."""
        nonce = request.response_nonce
        if self._sent and nonce and nonce != str(self._sent):
            return None  # answers an older reply; the answer to the newest one is on its way
        refusal = request.error_detail.message if request.HasField("error_detail") else None
        outcome = self._settle(nonce, refusal)
        if isinstance(outcome, Acked):
            self._has, self._refused_version = outcome.reply.version, ""
            self.refused = {}
            # What the reply leaves out is gone.
            self.acknowledged = {
                resource.name: outcome.reply.snapshot for resource in outcome.reply.resources
            }
        elif isinstance(outcome, Nacked):
            self._refused_version = outcome.reply.version
            self.refused = {found.name: found.version for found in outcome.reply.resources}
        if not self._asked:
            self.resumed = bool(request.version_info)
        self._subscribe(set(request.resource_names))
        return outcome

    def offer(self, snapshot: Snapshot, spared: AbstractSet[str] = NOTHING) -> Reply | None:
        """A `Reply` with everything that is subscribed to; what it leaves out is removed.

        A named subscription to nothing that exists is not answered: for endpoints that would say
        that there are none.
        """
        if not self._asked or self.pending:
            return None
        wanted = self.wanted(snapshot)
        version = digest_of(wanted.values())
        news = version not in (self._has, self._refused_version)
        if not self.wildcard:  # what a reply leaves out means nothing to who asked by name
            news = news and any(self.holds(name) != wanted[name].version for name in wanted)
        if not (news or self._owed) or not (wanted or self.wildcard):
            return None
        first = not self.acknowledged
        self._owed = False
        return self._send(snapshot, version, wanted.values(), (), news and not first)

    def removing(self, name: str) -> bool:
        """See `Subscription`. What a reply leaves out means nothing to who asked by name."""
        if self.pending is None or not self.wildcard:
            return False
        return all(found.name != name for found in self.pending.resources)

    def adopt(self, snapshot: Snapshot) -> None:
        """See `Subscription`. It says only a version; what it asks for is told again."""

    def owe(self, names: Iterable[str]) -> None:
        """See `Subscription`."""
        self._owed = self._owed or self.wildcard or not self.names.isdisjoint(names)

    def _subscribe(self, names: set[str]) -> None:
        # Before any name was given, naming none means all; afterwards it means none.
        self._named = self._named or bool(names)
        legacy = not self._named and self.type_url in WILDCARD_TYPES
        everything = legacy or "*" in names
        names.discard("*")
        more = bool(names - self.names) or (everything and not self.wildcard)
        self._owed = self._owed or more or not self._asked
        self.names, self.wildcard, self._asked = names, everything, True
        self.acknowledged = {
            name: each for name, each in self.acknowledged.items() if self.wants(name)
        }
