"""One ADS stream as a state machine: subscriptions of several types, answered in order.

Make before break, over several responses if need be. Routes wait until Envoy has the clusters and
endpoints that are new in them, and a cluster stays until no routes that Envoy may use need it:
requests on a route to a missing cluster fail. Envoy acknowledges clusters once they have warmed,
for exactly this purpose.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar

from sidecar.xds.ads.delta import DeltaResponder
from sidecar.xds.ads.inherited import keeping, with_clusters, with_endpoints
from sidecar.xds.ads.sotw import SotwResponder
from sidecar.xds.ads.subscription import NOTHING, Outcome, Reply, Subscription
from sidecar.xds.config.capabilities import Capabilities, capabilities_of
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
    """One ADS stream: its subscriptions, answered in make-before-break order."""

    protocol: ClassVar[str]
    # The type whose first request says which clusters Envoy already has.
    inventory_type: ClassVar[str]

    def __init__(self) -> None:
        self._subscriptions: dict[str, Subscription] = {}
        self._capabilities = Capabilities.PLAIN
        # The last snapshot offered, with what was kept of those before it.
        self._offered: Snapshot | None = None
        # The clusters Envoy already had when it connected, from an earlier run or another control
        # plane.
        self._initial_clusters: frozenset[str] = NOTHING
        # Those of them that are not published: requests may be in flight there.
        self.inherited: frozenset[str] = NOTHING

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        """By type."""
        return self._subscriptions

    @property
    def rejecting(self) -> bool:
        """Whether Envoy has rejected something that is still published. Thread-safe."""
        return any(each.rejecting for each in tuple(self._subscriptions.values()))

    def receive(self, request: Any) -> Outcome:
        """Take a request of any type."""
        type_url = request.type_url
        if not self._subscriptions:
            self._capabilities = capabilities_of(request.node)  # later requests omit the node
        if (found := self._subscriptions.get(type_url)) is not None:
            return found.receive(request)
        found = self._subscriptions[type_url] = self._open(type_url)
        outcome = found.receive(request)
        if type_url == self.inventory_type:
            self.inherited = self._initial_clusters = self._inventory(found)
        return outcome

    def drop_inherited(self, cluster: str) -> None:
        """Nothing is in flight any more on a cluster that Envoy already had."""
        self.inherited -= {cluster}

    def offers(self, snapshot: Snapshot) -> Iterator[Reply]:
        """The responses that are due, in sending order."""
        snapshot = self.adapted(snapshot)
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
            subscription.clear_nacks(offered)
            if type_url in held or (type_url == ROUTE and not self._ready(offered)):
                continue
            reply = subscription.offer(offered, self._protected(type_url))
            if reply is None:
                continue
            if type_url == CLUSTER:
                self._resend_endpoints(subscription, reply)
            yield reply

    def behind(self, snapshot: Snapshot) -> bool:
        """Whether Envoy has not yet acknowledged some of the snapshot."""
        adapted = self.adapted(snapshot)
        return any(each.behind(adapted) for each in self._subscriptions.values())

    def adapted(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot as this Envoy gets it, limited to the fields it knows."""
        return snapshot.adapted_to(self._capabilities)

    def acknowledges_without(self, service: str, instance_id: str) -> bool:
        """Whether Envoy acknowledged endpoints in which the instance gets no new requests."""
        confirmed = self._acknowledged(service)
        return bool(confirmed) and not routes_to(confirmed, instance_id)

    def acknowledges_first(self, service: str, instance_id: str, among: Collection[str]) -> bool:
        """Whether Envoy acknowledged endpoints that prefer the instance alone.

        Of its clusters, only those `among` the ones that routes lead to count.
        """
        confirmed = [each for each in self._acknowledged(service) if each.cluster in among]
        if not confirmed:
            return False
        led = service in self._subscriptions[ENDPOINT].acknowledged[confirmed[0].cluster].led
        return prefers(confirmed, led, instance_id)

    def _acknowledged(self, service: str) -> list[Assignment]:
        """What Envoy last acknowledged of each of the service's clusters.

        Empty while it may use one of which it has acknowledged nothing.
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
    def _inventory(self, first: Subscription) -> frozenset[str]:
        """The clusters that Envoy already had, from its first `inventory_type` request."""

    def _with_inherited(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot plus what Envoy needs for the clusters it inherited."""
        return with_endpoints(snapshot, self.inherited)

    def _too_early(self, snapshot: Snapshot) -> bool:
        """Whether clusters and routes wait, so that Envoy keeps the ones it already had.

        They wait until Envoy has said which clusters it has; and while a service's clusters would
        be replaced although its endpoints are unknown: the old ones have endpoints, the new ones
        would not.
        """
        if self._blank:
            return False
        if not self._inventory_known():
            return True
        settled = {service_of(name) for name in snapshot.assignments}
        for service in set(snapshot.services) - settled:
            before = {name for name in self._initial_clusters if service_of(name) == service}
            now = {name for name in snapshot.of(CLUSTER) if service_of(name) == service}
            if before and before != now:
                return True
        return False

    def _inventory_known(self) -> bool:
        """Whether it is known which clusters Envoy already had, if any."""
        clusters = self._subscriptions.get(CLUSTER)
        resumed = clusters is not None and clusters.resumed
        # Envoy requests the listener after the endpoints, if it requests any.
        return not resumed or any(
            each in self._subscriptions for each in (self.inventory_type, LISTENER)
        )

    @property
    def _blank(self) -> bool:
        """Whether Envoy certainly has no routes at all."""
        routes = self._subscriptions.get(ROUTE)
        return routes is not None and not (routes.acknowledged or routes.resumed)

    def _resend_endpoints(self, clusters: Subscription, reply: Reply) -> None:
        """To Envoy a changed cluster is a new one, which warms until it gets its endpoints."""
        endpoints = self._subscriptions.get(ENDPOINT)
        if endpoints is not None:
            endpoints.resend(
                found.name
                for found in reply.resources
                if clusters.holds(found.name) != found.version
            )

    def _with_kept(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot plus clusters of the last one that Envoy's routes may still need."""
        before = self._offered
        if before is None:
            return snapshot
        gone = before.of(CLUSTER).keys() - snapshot.of(CLUSTER).keys()
        needed = self._needed() if gone else NOTHING
        kept = gone if needed is None else gone & needed
        return keeping(snapshot, before, kept) if kept else snapshot

    def _needed(self) -> AbstractSet[str] | None:
        """The clusters that Envoy's routes refer to; None if its routes are unknown."""
        routes = self._subscriptions.get(ROUTE)
        if routes is None:
            # It has resources from an earlier stream, and will request routes soon.
            resumed = any(each.resumed for each in self._subscriptions.values())
            return None if resumed else NOTHING
        if routes.resumed and not routes.acknowledged:
            return None
        confirmed = [*routes.acknowledged.values()]
        if routes.pending:  # Envoy may be using them already
            confirmed.append(routes.pending.snapshot)
        return {name for snapshot in confirmed for name in snapshot.routed}

    def _protected(self, type_url: str) -> AbstractSet[str]:
        """What must not be removed yet, although it is neither in the snapshot nor kept."""
        clusters = self._subscriptions.get(CLUSTER)
        if clusters is None:
            return NOTHING
        if type_url == CLUSTER:
            needed = self._needed()
            return clusters.known if needed is None else needed | self.inherited
        return clusters.known if type_url == ENDPOINT else NOTHING

    def _ready(self, snapshot: Snapshot) -> bool:
        """Whether Envoy has what the snapshot's routes refer to.

        An Envoy without any routes does not wait for clusters that it rejected: routes to
        everything else are better than none.
        """
        for type_url in (CLUSTER, ENDPOINT):
            subscription = self._subscriptions.get(type_url)
            if subscription is None:
                continue
            for name in snapshot.routed:
                nacked = self._blank and name in subscription.nacked
                awaited = name in snapshot.of(type_url) and self._will_want(subscription, name)
                there = name in subscription.known and not subscription.removing(name)
                if awaited and not there and not nacked:
                    return False
        return True

    def _will_want(self, subscription: Subscription, name: str) -> bool:
        """Envoy requests the endpoints of a cluster once it has been sent the cluster."""
        clusters = self._subscriptions.get(CLUSTER)
        if subscription.type_url == ENDPOINT and clusters is not None and clusters.wants(name):
            return True
        return subscription.wants(name)


class SotwStream(AdsStream):
    """`StreamAggregatedResources`."""

    protocol = "state of the world"
    inventory_type = ENDPOINT

    def _open(self, type_url: str) -> Subscription:
        return SotwResponder(type_url)

    def _inventory(self, first: Subscription) -> frozenset[str]:
        """It sends only a version for its clusters, but requests the endpoints of each."""
        clusters = self._subscriptions.get(CLUSTER)
        return frozenset(first.names) if clusters is not None and clusters.resumed else NOTHING

    def _with_inherited(self, snapshot: Snapshot) -> Snapshot:
        """With the clusters too: a cluster that a response omits is removed."""
        return with_endpoints(with_clusters(snapshot, self.inherited), self.inherited)


class DeltaStream(AdsStream):
    """`DeltaAggregatedResources`."""

    protocol = "delta"
    inventory_type = CLUSTER

    def _open(self, type_url: str) -> Subscription:
        return DeltaResponder(type_url)

    def _inventory(self, first: Subscription) -> frozenset[str]:
        return frozenset(first.known)
