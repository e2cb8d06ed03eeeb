"""One ADS stream as a state machine: subscriptions of several types, answered in order."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2

from sidecar.xds.snapshot import CLUSTER, ENDPOINT, ORDER, Snapshot
from sidecar.xds.subscription import Delta, Outcome, Reply, StateOfTheWorld, Subscription


class Conversation(ABC):
    """One ADS stream: its subscriptions, answered in the order make-before-break."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, Subscription] = {}

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        """By type."""
        return self._subscriptions

    def receive(self, request: Any) -> Outcome:
        """Take a request of any type."""
        type_url = request.type_url
        if type_url not in self._subscriptions:
            self._subscriptions[type_url] = self._open(type_url)
        return self._subscriptions[type_url].receive(request)

    def offers(self, snapshot: Snapshot) -> Iterator[Reply]:
        """The replies that are due, in the order in which to send them."""
        for type_url in ORDER:
            subscription = self._subscriptions.get(type_url)
            reply = subscription.offer(snapshot) if subscription else None
            if subscription is None or reply is None:
                continue
            if type_url == CLUSTER:
                self._owe_endpoints(subscription, reply)
            yield reply

    def acknowledges_without(self, service: str, instance_id: str) -> bool:
        """Whether Envoy confirmed endpoints in which the instance gets no new requests."""
        snapshot = self._acknowledged(service)
        return snapshot is not None and not snapshot.routes_to(service, instance_id)

    def acknowledges_first(self, service: str, instance_id: str) -> bool:
        """Whether Envoy confirmed endpoints of which the instance alone is the first choice."""
        snapshot = self._acknowledged(service)
        return snapshot is not None and snapshot.prefers(service, instance_id)

    def _acknowledged(self, service: str) -> Snapshot | None:
        endpoints = self._subscriptions.get(ENDPOINT)
        return endpoints.acknowledged.get(service) if endpoints else None

    @abstractmethod
    def message(self, reply: Reply) -> Any:
        """The reply as the stream's response message."""

    @abstractmethod
    def _open(self, type_url: str) -> Subscription: ...

    def _owe_endpoints(self, clusters: Subscription, reply: Reply) -> None:
        """A changed cluster is a new one to Envoy: it warms until it is told its endpoints."""
        endpoints = self._subscriptions.get(ENDPOINT)
        if endpoints is not None:
            endpoints.owe(
                found.name
                for found in reply.resources
                if clusters.holds(found.name) != found.version
            )


class StateOfTheWorldConversation(Conversation):
    """`StreamAggregatedResources`."""

    def message(self, reply: Reply) -> Any:
        """A `DiscoveryResponse`."""
        return discovery_pb2.DiscoveryResponse(
            version_info=reply.version,
            type_url=reply.type_url,
            nonce=reply.nonce,
            resources=[resource.body for resource in reply.resources],
        )

    def _open(self, type_url: str) -> Subscription:
        return StateOfTheWorld(type_url)


class DeltaConversation(Conversation):
    """`DeltaAggregatedResources`."""

    def message(self, reply: Reply) -> Any:
        """A `DeltaDiscoveryResponse`."""
        return discovery_pb2.DeltaDiscoveryResponse(
            system_version_info=reply.version,
            type_url=reply.type_url,
            nonce=reply.nonce,
            resources=[
                discovery_pb2.Resource(name=found.name, version=found.version, resource=found.body)
                for found in reply.resources
            ],
            removed_resources=reply.removed,
        )

    def _open(self, type_url: str) -> Subscription:
        return Delta(type_url)
