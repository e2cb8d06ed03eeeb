"""How many requests are in flight where, from Envoys' load reports. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# (cluster, address, port)
Place = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class LoadReport:
    """One Envoy's report: requests in flight by place, and when (monotonic seconds) it arrived.

    A place that is missing has none, provided its cluster is named: Envoy omits idle endpoints, but
    names every cluster that it counts.
    """

    at: float
    in_flight: Mapping[Place, int] = field(default_factory=dict)
    clusters: frozenset[str] = frozenset()

    def on(self, cluster: str) -> int:
        """Requests in flight on a cluster."""
        return sum(count for place, count in self.in_flight.items() if place[0] == cluster)


def read_report(request: Any, at: float) -> LoadReport:
    """The report in an envoy.service.load_stats.v3.LoadStatsRequest."""
    in_flight: dict[Place, int] = {}
    for cluster in request.cluster_stats:
        for locality in cluster.upstream_locality_stats:
            for endpoint in locality.upstream_endpoint_stats:
                socket = endpoint.address.socket_address
                place = (cluster.cluster_name, socket.address, socket.port_value)
                in_flight[place] = in_flight.get(place, 0) + endpoint.total_requests_in_progress
    clusters = frozenset(cluster.cluster_name for cluster in request.cluster_stats)
    return LoadReport(at, in_flight, clusters)
