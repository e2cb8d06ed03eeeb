"""One ADS stream as a state machine: subscriptions of several types, answered in order.

Make before break, over several replies where need be. Routes wait until Envoy has the clusters and
endpoints that they are new to, and a cluster stays until no routes that Envoy may use need it:
requests on a route to a cluster that is not there fail. Envoy acknowledges clusters when they have
warmed up, for exactly this purpose.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar

from sidecar.xds.ads.delta import DeltaResponder
from sidecar.xds.ads.inherited import keeping, with_clusters, with_endpoints
from sidecar.xds.ads.sotw import SotwResponder
from sidecar.xds.ads.subscription import NOTHING, Outcome, Reply, Subscription
from sidecar.xds.config.capabilities import Capabilities, capabilities
from sidecar.xds.config.endpoints import Assignment, service_of
from sidecar.xds.config.snapshot import (
    CLUSTER,
    ENDPOINT,
    LISTENER,
    ORDER,
    ROUTE,
    Snapshot,
    prefers,
    routes_to,
)


class AdsStream(ABC):
    """One ADS stream: its subscriptions, answered in the order make-before-break."""

    protocol: ClassVar[str]
    # The type of the request in which Envoy tells which clusters it has when it comes.
    telling: ClassVar[str]

    def __init__(self) -> None:
        self._subscriptions: dict[str, Subscription] = {}
        self._dialect = Capabilities.PLAIN
        # What was offered last: a snapshot, and what was kept of those before it.
        self._offered: Snapshot | None = None
        # The clusters of an earlier life or of another control plane with which Envoy came.
        self._came_with: frozenset[str] = NOTHING
        # Clusters that Envoy came with, of an earlier life or of another control plane, and that
        # are not published: requests may be in flight there.
        self.inherited: frozenset[str] = NOTHING

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        """By type."""
        return self._subscriptions

    @property
    def refusing(self) -> bool:
        """Whether Envoy was told something that it does not want. Any thread may ask."""
        return any(each.refusing for each in tuple(self._subscriptions.values()))

    def receive(self, request: Any) -> Outcome:
        """Take a request of any type."""
        type_url = request.type_url
        if not self._subscriptions:
            self._dialect = capabilities(request.node)  # which later requests leave out
        if (found := self._subscriptions.get(type_url)) is not None:
            return found.receive(request)
        found = self._subscriptions[type_url] = self._open(type_url)
        outcome = found.receive(request)
        if type_url == self.telling:
            self.inherited = self._came_with = self._told_of(found)
        return outcome

    def let_go(self, cluster: str) -> None:
        """Nothing is in flight any more on a cluster that Envoy came with."""
        self.inherited -= {cluster}

    def offers(self, snapshot: Snapshot) -> Iterator[Reply]:
        """The replies that are due, in the order in which to send them."""
        snapshot = self.put(snapshot)
        for each in self._subscriptions.values():
            each.adopt(snapshot)
        held = (CLUSTER, ROUTE) if self._too_early(snapshot) else ()
        self.inherited = frozenset(
            name
            for name in self.inherited - snapshot.of(CLUSTER).keys()
            if service_of(name) in snapshot.services
        )
        known = self._with_inherited(snapshot) if self.inherited else snapshot
        offered = self._offered = self._with_kept(known)
        for type_url in ORDER:
            subscription = self._subscriptions.get(type_url)
            if subscription is None:
                continue
            subscription.forgive(offered)
            if type_url in held or (type_url == ROUTE and not self._ready(offered)):
                continue
            reply = subscription.offer(offered, self._spared(type_url))
            if reply is None:
                continue
            if type_url == CLUSTER:
                self._owe_endpoints(subscription, reply)
            yield reply

    def behind(self, snapshot: Snapshot) -> bool:
        """Whether Envoy has still to confirm something of the snapshot."""
        put = self.put(snapshot)
        return any(each.behind(put) for each in self._subscriptions.values())

    def put(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot as this Envoy is told of it."""
        return snapshot.to(self._dialect)

    def acknowledges_without(self, service: str, instance_id: str) -> bool:
        """Whether Envoy confirmed endpoints in which the instance gets no new requests."""
        told = self._acknowledged(service)
        return bool(told) and not routes_to(told, instance_id)

    def acknowledges_first(self, service: str, instance_id: str, among: Collection[str]) -> bool:
        """Whether Envoy confirmed endpoints of which the instance alone is the first choice.

        Only those `among` its clusters count to which routes lead.
        """
        told = [each for each in self._acknowledged(service) if each.cluster in among]
        if not told:
            return False
        led = service in self._subscriptions[ENDPOINT].acknowledged[told[0].cluster].led
        return prefers(told, led, instance_id)

    def _acknowledged(self, service: str) -> list[Assignment]:
        """What Envoy confirmed last of each of the service's clusters.

        Empty while it may use one of which it has confirmed nothing.
        """
        endpoints = self._subscriptions.get(ENDPOINT)
        if endpoints is None:
            return []
        every = {*endpoints.names, *endpoints.known, *endpoints.acknowledged}
        own = sorted(name for name in every if service_of(name) == service)
        used = [name for name in own if self._uses(endpoints, name)]
        used = used or [name for name in own if name in endpoints.acknowledged]
        if not all(name in endpoints.acknowledged for name in used):
            return []
        return [endpoints.acknowledged[name].assignments[name] for name in used]

    def _uses(self, endpoints: Subscription, name: str) -> bool:
        clusters = self._subscriptions.get(CLUSTER)
        if clusters is not None and clusters.known and name not in clusters.known:
            return False
        return name in endpoints.names or name in endpoints.known

    @abstractmethod
    def _open(self, type_url: str) -> Subscription: ...

    @abstractmethod
    def _told_of(self, first: Subscription) -> frozenset[str]:
        """The clusters with which Envoy came, from its first request of the type `telling`."""

    def _with_inherited(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with what Envoy needs of it for clusters that it came with."""
        return with_endpoints(snapshot, self.inherited)

    def _too_early(self, snapshot: Snapshot) -> bool:
        """Whether clusters and routes wait, and Envoy keeps those that it came with.

        Until it has told them, and while other ones would take the place of a service's of which
        nothing more is known: these have endpoints, and the new ones would have none.
        """
        if self._blank:
            return False
        if not self._has_told():
            return True
        settled = {service_of(name) for name in snapshot.assignments}
        for service in set(snapshot.services) - settled:
            before = {name for name in self._came_with if service_of(name) == service}
            now = {name for name in snapshot.of(CLUSTER) if service_of(name) == service}
            if before and before != now:
                return True
        return False

    def _has_told(self) -> bool:
        """Whether the clusters are known with which Envoy came, if with any."""
        clusters = self._subscriptions.get(CLUSTER)
        resumed = clusters is not None and clusters.resumed
        # The listener comes after the endpoints, if it asks for any.
        return not resumed or any(each in self._subscriptions for each in (self.telling, LISTENER))

    @property
    def _blank(self) -> bool:
        """Whether Envoy is known to have no routes at all."""
        routes = self._subscriptions.get(ROUTE)
        return routes is not None and not (routes.acknowledged or routes.resumed)

    def _owe_endpoints(self, clusters: Subscription, reply: Reply) -> None:
        """A changed cluster is a new one to Envoy: it warms until it is told its endpoints."""
        endpoints = self._subscriptions.get(ENDPOINT)
        if endpoints is not None:
            endpoints.owe(
                found.name
                for found in reply.resources
                if clusters.holds(found.name) != found.version
            )

    def _with_kept(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot, and what it lacks of the last one and Envoy's routes may still need."""
        before = self._offered
        if before is None:
            return snapshot
        gone = before.of(CLUSTER).keys() - snapshot.of(CLUSTER).keys()
        needed = self._needed() if gone else NOTHING
        kept = gone if needed is None else gone & needed
        return keeping(snapshot, before, kept) if kept else snapshot

    def _needed(self) -> AbstractSet[str] | None:
        """The clusters that Envoy's routes refer to; None if nothing is known of its routes."""
        routes = self._subscriptions.get(ROUTE)
        if routes is None:
            # It comes with what it was told on an earlier stream, and will ask for routes soon.
            resumed = any(each.resumed for each in self._subscriptions.values())
            return None if resumed else NOTHING
        if routes.resumed and not routes.acknowledged:
            return None
        told = [*routes.acknowledged.values()]
        if routes.pending:  # it may be using them already
            told.append(routes.pending.snapshot)
        return {name for snapshot in told for name in snapshot.routed}

    def _spared(self, type_url: str) -> AbstractSet[str]:
        """What must not be removed yet, although it is not in the snapshot nor kept."""
        clusters = self._subscriptions.get(CLUSTER)
        if clusters is None:
            return NOTHING
        if type_url == CLUSTER:
            needed = self._needed()
            return clusters.known if needed is None else needed | self.inherited
        return clusters.known if type_url == ENDPOINT else NOTHING

    def _ready(self, snapshot: Snapshot) -> bool:
        """Whether Envoy has what the snapshot's routes refer to.

        One that has no routes at all is not kept waiting for what it has refused: the routes to
        everything else are better than none.
        """
        for type_url in (CLUSTER, ENDPOINT):
            subscription = self._subscriptions.get(type_url)
            if subscription is None:
                continue
            for name in snapshot.routed:
                refused = self._blank and name in subscription.refused
                awaited = name in snapshot.of(type_url) and self._will_want(subscription, name)
                there = name in subscription.known and not subscription.removing(name)
                if awaited and not there and not refused:
                    return False
        return True

    def _will_want(self, subscription: Subscription, name: str) -> bool:
        """Envoy asks for the endpoints of a cluster when it has been told of the cluster."""
        clusters = self._subscriptions.get(CLUSTER)
        if subscription.type_url == ENDPOINT and clusters is not None and clusters.wants(name):
            return True
        return subscription.wants(name)


class SotwStream(AdsStream):
    """`StreamAggregatedResources`."""

    protocol = "state of the world"
    telling = ENDPOINT

    def _open(self, type_url: str) -> Subscription:
        return SotwResponder(type_url)

    def _told_of(self, first: Subscription) -> frozenset[str]:
        """It says only a version of its clusters, and asks for the endpoints of each."""
        clusters = self._subscriptions.get(CLUSTER)
        return frozenset(first.names) if clusters is not None and clusters.resumed else NOTHING

    def _with_inherited(self, snapshot: Snapshot) -> Snapshot:
        """With the clusters too: those that a reply leaves out are gone."""
        return with_endpoints(with_clusters(snapshot, self.inherited), self.inherited)


class DeltaStream(AdsStream):
    """`DeltaAggregatedResources`."""

    protocol = "delta"
    telling = CLUSTER

    def _open(self, type_url: str) -> Subscription:
        return DeltaResponder(type_url)

    def _told_of(self, first: Subscription) -> frozenset[str]:
        return frozenset(first.known)
