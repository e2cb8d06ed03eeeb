"""Subscriptions with a client that rejects at random, reconnects, and delivers late."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.traffic.policy import Release
from sidecar.xds.ads.ads_stream import AdsStream, DeltaStream, SotwStream
from sidecar.xds.ads.subscription import Acked, Nacked, Reply
from sidecar.xds.catalog.catalog import Health, Instance
from sidecar.xds.config.snapshot import (
    CLUSTER,
    ENDPOINT,
    LISTENER,
    ORDER,
    ROUTE,
    Snapshot,
)
from tests.support.xds.ads_client import FIRST, NAMES, A, B, delta, snapshot, sotw, tuning


class Protocol(RuleBasedStateMachine):
    """A client that stores what it receives, rejects at random and reconnects; one catalog.

    Like Envoy it requests the endpoints of its clusters. Requests and replies are delivered at once
    or late; whenever both sides are quiet, the client has exactly the newest snapshot, or what it
    rejected instead. Its routes never lead to a cluster that it does not have.
    """

    delta = False

    def __init__(self) -> None:
        super().__init__()
        self.has: dict[str, dict[str, str]] = {type_url: {} for type_url in ORDER}
        self.refused: set[tuple[str, str]] = set()
        # By version: where routes lead, and which instances get requests by endpoints.
        self.leads: dict[str, frozenset[str]] = {}
        self.gets: dict[str, frozenset[str]] = {}
        # Clusters that were rejected, and routes to them that were accepted for lack of others.
        self.forgone: set[str] = set()
        self.newest = FIRST
        self.learn(FIRST)
        self.connect()

    def learn(self, newest: Snapshot) -> None:
        self.newest = newest
        self.leads[newest.of(ROUTE)["triton"].version] = frozenset(newest.routed)
        for name, assignment in newest.assignments.items():
            self.gets[newest.of(ENDPOINT)[name].version] = assignment.routable

    def connect(self) -> None:
        self.pending: list[Reply] = []
        self.nonces: dict[str, str] = {}
        self.refused = set()
        self.stream: AdsStream = DeltaStream() if self.delta else SotwStream()
        for type_url in ORDER:
            has = self.has[type_url]
            if self.delta:
                request = delta(type_url, *self.names(type_url), has=has)
            else:
                version = "something" if has else ""
                request = sotw(type_url, *self.names(type_url), version=version)
            self.stream.receive(request)

    def names(self, type_url: str) -> tuple[str, ...]:
        """The names that are requested."""
        if type_url == ENDPOINT:
            return tuple(sorted(self.has[CLUSTER]))
        return NAMES.get(type_url, ())

    @rule(
        instances=st.lists(
            st.sampled_from([A, B, replace(A, draining=True), replace(B, health=Health.CRITICAL)]),
            unique_by=lambda instance: instance.id,
        ),
        leader=st.sampled_from(["a", "b"]),
        timeout=st.sampled_from([0.5, 0.6]),
        percent=st.sampled_from([0, 0, 50, 100]),
    )
    def publish(self, instances: list[Instance], leader: str, timeout: float, percent: int) -> None:
        release = Release(tag="new", percent=percent) if percent else None
        policy = replace(tuning(timeout), release=release)
        self.learn(snapshot(*instances, leader=leader, policy=policy))

    @rule()
    def offer(self) -> None:
        replies = list(self.stream.offers(self.newest))
        busy = {reply.type_url for reply in self.pending}
        assert busy.isdisjoint(reply.type_url for reply in replies)
        order = [ORDER.index(reply.type_url) for reply in replies]
        assert order == sorted(order)
        self.pending += replies

    @precondition(lambda self: self.pending)
    @rule(good=st.booleans(), which=st.integers(0, 4))
    def answer(self, good: bool, which: int = 0) -> None:
        reply = self.pending.pop(which % len(self.pending))
        self.nonces[reply.type_url] = reply.nonce
        before = set(self.has[CLUSTER])
        if good:
            self.take(reply)
        else:
            self.refused |= {(found.name, found.version) for found in reply.resources}
        outcome = self.send(reply.type_url, reply.nonce, None if good else "no")
        assert isinstance(outcome, Acked if good else Nacked)
        assert outcome.reply is reply
        if before != set(self.has[CLUSTER]):
            self.follow_clusters(before)

    def take(self, reply: Reply) -> None:
        has = self.has[reply.type_url]
        if not self.delta and reply.type_url in (CLUSTER, LISTENER):
            has.clear()
        has |= {resource.name: resource.version for resource in reply.resources}
        for name in reply.removed:
            has.pop(name, None)
        if reply.type_url == ENDPOINT:  # also of clusters of an earlier stream
            for resource in reply.resources:
                routable = reply.snapshot.assignments[resource.name].routable
                self.gets.setdefault(resource.version, routable)
        if reply.type_url == ROUTE:
            missing = self.leads[has["triton"]] - self.has[CLUSTER].keys()
            assert missing <= {name for name, _ in self.refused}
            self.forgone = set(missing)

    def send(self, type_url: str, nonce: str, error: str | None = None) -> Any:
        if self.delta:
            return self.stream.receive(delta(type_url, nonce=nonce, error=error))
        request = sotw(type_url, *self.names(type_url), nonce=nonce, error=error)
        return self.stream.receive(request)

    def follow_clusters(self, before: set[str]) -> None:
        """Request the endpoints of new clusters, and unsubscribe from those of removed ones."""
        now = set(self.has[CLUSTER])
        for name in before - now:
            self.has[ENDPOINT].pop(name, None)
        if self.delta:
            gone = tuple(before - now)
            self.stream.receive(delta(ENDPOINT, *sorted(now - before), gone=gone))
        else:
            self.send(ENDPOINT, self.nonces.get(ENDPOINT, ""))

    @rule(type_url=st.sampled_from(ORDER))
    def acknowledge_an_unknown_nonce(self, type_url: str) -> None:
        outcome = self.stream.receive(
            delta(type_url, nonce="stale")
            if self.delta
            else sotw(type_url, *self.names(type_url), nonce="stale")
        )
        assert outcome is None

    @rule(type_url=st.sampled_from((ENDPOINT, ROUTE)))
    def request_again(self, type_url: str) -> None:
        if self.delta:
            self.stream.receive(delta(type_url, *self.names(type_url)))
        else:
            self.send(type_url, self.nonces.get(type_url, ""))

    @precondition(lambda self: self.delta and self.has[ENDPOINT])
    @rule()
    def change_subscription(self) -> None:
        names = self.names(ENDPOINT)
        self.stream.receive(delta(ENDPOINT, gone=names))
        self.has[ENDPOINT].clear()
        self.pending = [reply for reply in self.pending if reply.type_url != ENDPOINT] + [
            reply for reply in self.pending if reply.type_url == ENDPOINT
        ]
        self.stream.receive(delta(ENDPOINT, *names))

    @rule()
    def reconnect(self) -> None:
        self.connect()

    @rule()
    def become_quiet(self) -> None:
        """Deliver everything: it has to end, with the client up to date.

        Nothing is in flight on the clusters of an earlier stream.
        """
        for name in self.stream.inherited:
            self.stream.drop_inherited(name)
        for _ in range(20):
            self.offer()
            while self.pending:
                self.answer(good=True)
        assert list(self.stream.offers(self.newest)) == []
        for type_url in ORDER:
            for name, resource in self.newest.of(type_url).items():
                asked = type_url != ENDPOINT or name in self.has[CLUSTER]
                current = self.has[type_url].get(name) == resource.version
                assert current or not asked or self.is_refused(type_url, resource.name)
        extra = self.has[CLUSTER].keys() - self.newest.of(CLUSTER).keys()
        assert not extra or self.has[ROUTE]["triton"] != self.newest.of(ROUTE)["triton"].version

    def is_refused(self, type_url: str, name: str) -> bool:
        """Whether the newest version was rejected, or that of a resource that routes need."""
        resources: Mapping[str, Any] = self.newest.of(type_url)
        if (name, resources[name].version) in self.refused:
            return True
        return type_url == ROUTE and any(
            self.is_refused(other, cluster)
            for other in (CLUSTER, ENDPOINT)
            for cluster in self.newest.routed
        )

    @invariant()
    def confirmed_is_what_the_client_has(self) -> None:
        for type_url, subscription in self.stream.subscriptions.items():
            for name, found in subscription.acknowledged.items():
                version = found.of(type_url)[name].version
                # A request that names fewer endpoints may be in flight.
                if type_url != ENDPOINT or name in self.has[CLUSTER]:
                    assert self.has[type_url][name] == version

    @invariant()
    def routes_lead_to_existing_clusters(self) -> None:
        for version in self.has[ROUTE].values():
            assert self.leads[version] <= self.has[CLUSTER].keys() | self.forgone

    @invariant()
    def withdrawn_instances_get_no_requests(self) -> None:
        for instance in "ab":
            if self.stream.acknowledges_without("triton", instance):
                for name in self.has[CLUSTER]:
                    version = self.has[ENDPOINT].get(name)
                    assert version is None or instance not in self.gets[version]


class DeltaProtocol(Protocol):
    delta = True


TestStateOfTheWorld = Protocol.TestCase
TestDelta = DeltaProtocol.TestCase
