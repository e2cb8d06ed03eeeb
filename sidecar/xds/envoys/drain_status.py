"""The progress of one instance's withdrawal, over all connected Envoys. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sidecar.xds.envoys.load_report import LoadReport, Place

# Seconds. Envoy acknowledges on its main thread; its workers follow within milliseconds. A report
# less than this after the acknowledgement may miss a request that a worker was about to send.
SETTLING = 0.1


@dataclass(frozen=True, slots=True)
class EnvoyView:
    """One Envoy: its latest load report, and since when it sends the instance no new requests.

    The time is in monotonic seconds, and None while it still may send some.
    """

    node: str
    withdrawn_since: float | None
    report: LoadReport | None


@dataclass(frozen=True, slots=True)
class DrainStatus:
    """Counts and node ids, as in sidecar.v1.WatchDrainResponse."""

    envoys: int = 0
    acknowledged: int = 0
    reported: int = 0
    in_flight: int = 0
    nodes: tuple[str, ...] = ()


def is_idle(views: Iterable[EnvoyView], cluster: str) -> bool:
    """Whether certainly nothing is in flight on a cluster that no route leads to any more.

    The time of each view is when that Envoy acknowledged such routes.
    """
    return all(
        view.withdrawn_since is not None
        and view.report is not None
        and view.report.at >= view.withdrawn_since + SETTLING
        and cluster in view.report.clusters
        and not view.report.on(cluster)
        for view in views
    )


def drain_status(
    views: Iterable[EnvoyView], places: Collection[Place], left: Collection[Place] = ()
) -> DrainStatus:
    """Sum up the views.

    Without a place Envoy reports nothing about the instance, so no Envoy counts as having reported.

    Args:
        views: all Envoys.
        places: where the instance is listed, one per cluster. Envoy has to report on all of these
            clusters.
        left: where it was listed, and an Envoy may still be counting.
    """
    clusters = {cluster for cluster, _, _ in places}
    envoys = acknowledged = reported = in_flight = 0
    nodes = set()
    for view in views:
        nodes.add(view.node)
        envoys += 1
        if view.withdrawn_since is None:
            continue
        acknowledged += 1
        if not clusters or view.report is None or not clusters <= view.report.clusters:
            continue
        if view.report.at >= view.withdrawn_since + SETTLING:
            reported += 1
            in_flight += sum(view.report.in_flight.get(place, 0) for place in (*places, *left))
    named = tuple(sorted(nodes - {""}))
    return DrainStatus(envoys, acknowledged, reported, in_flight, named)
