"""What Envoys have not acknowledged, and what control planes publish differently. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.xds.ads.type_names import short


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """A resource that an Envoy does not have as its control plane publishes it.

    `reason` is Envoy's error for the resource type, if it has sent a NACK.
    """

    plane: str
    node: str
    type: str
    name: str
    published: str
    held: str
    standing: str
    lag: float
    reason: str


@dataclass(frozen=True, slots=True)
class Disagreement:
    """What control planes publish differently: each one's version or placement, by its id."""

    what: str
    says: Mapping[str, str]


def unconfirmed(plane: str, clients: Any) -> Iterator[Unconfirmed]:
    """What the Envoys in a control plane's ListClientsResponse have not acknowledged."""
    for client in clients.clients:
        for state in client.types:
            for each in state.behind:
                yield Unconfirmed(
                    plane=plane,
                    node=client.node,
                    type=short(state.type_url),
                    name=each.name,
                    published=each.published_version,
                    held=each.held_version,
                    standing=each.standing,
                    lag=client.lag_seconds,
                    reason=state.refused_reason,
                )


def disagreements(snapshots: Mapping[str, Any]) -> Iterator[Disagreement]:
    """The differences between several control planes' GetSnapshotResponses.

    Resources are compared by version, then endpoints by priority and weight.
    """
    resources = {plane: dict(_resources(found)) for plane, found in snapshots.items()}
    yield from _compare(resources, "none")
    endpoints = {plane: dict(_endpoints(found)) for plane, found in snapshots.items()}
    yield from _compare(endpoints, "not listed")


def place(endpoint: Any) -> str:
    """A PublishedEndpoint's priority and weight as text."""
    if not endpoint.HasField("priority"):
        return "gets no requests"
    return f"priority {endpoint.priority}, weight {endpoint.weight}"


def _compare(by_plane: Mapping[str, Mapping[str, str]], nothing: str) -> Iterator[Disagreement]:
    for what in sorted({name for each in by_plane.values() for name in each}):
        words = {plane: each.get(what, nothing) for plane, each in by_plane.items()}
        if len(set(words.values())) > 1:
            yield Disagreement(what, words)


def _resources(snapshot: Any) -> Iterable[tuple[str, str]]:
    return ((f"{short(each.type_url)} {each.name}", each.version) for each in snapshot.resources)


def _endpoints(snapshot: Any) -> Iterable[tuple[str, str]]:
    for cluster in snapshot.clusters:
        for each in cluster.endpoints:
            yield f"{each.instance} in {cluster.name}", place(each)
