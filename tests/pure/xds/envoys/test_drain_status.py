from dataclasses import replace

import pytest
from envoy.service.load_stats.v3 import lrs_pb2
from google.protobuf.json_format import ParseDict

from sidecar.xds.envoys.drain_status import SETTLING, DrainStatus, EnvoyView, drain_status
from sidecar.xds.envoys.load_report import LoadReport, read_report

PLACE = ("triton", "10.0.0.1", 8001)
SERVICES = frozenset({"triton"})
BUSY = LoadReport(20.0, {PLACE: 3}, SERVICES)


def counted(status: DrainStatus) -> DrainStatus:
    """Without the names."""
    return replace(status, nodes=())


@pytest.mark.parametrize(
    ("view", "place", "status"),
    [
        (EnvoyView("e", None, BUSY), PLACE, DrainStatus(1, 0, 0, 0)),
        (EnvoyView("e", 10.0, None), PLACE, DrainStatus(1, 1, 0, 0)),
        (EnvoyView("e", 10.0, BUSY), PLACE, DrainStatus(1, 1, 1, 3)),
        # A report from before the acknowledgement, or just after it, may miss a request.
        (EnvoyView("e", 21.0, BUSY), PLACE, DrainStatus(1, 1, 0, 0)),
        (EnvoyView("e", 20.0 - SETTLING / 2, BUSY), PLACE, DrainStatus(1, 1, 0, 0)),
        # No longer listed: Envoy cannot report on it.
        (EnvoyView("e", 10.0, BUSY), None, DrainStatus(1, 1, 0, 0)),
        (EnvoyView("e", 10.0, LoadReport(20.0, {}, SERVICES)), PLACE, DrainStatus(1, 1, 1, 0)),
        # It does not count for the service yet: a report without the service is no report.
        (EnvoyView("e", 10.0, LoadReport(20.0)), PLACE, DrainStatus(1, 1, 0, 0)),
    ],
)
def test_the_status_of_one_envoy(
    view: EnvoyView, place: tuple[str, str, int] | None, status: DrainStatus
) -> None:
    assert counted(drain_status([view], [place] if place else [])) == status


def test_the_statuses_of_several_envoys_are_summed_up() -> None:
    views = [EnvoyView("e", 10.0, BUSY), EnvoyView("f", 10.0, BUSY), EnvoyView("g", None, BUSY)]
    assert drain_status(views, [PLACE]) == DrainStatus(3, 2, 2, 6, ("e", "f", "g"))
    assert drain_status([], [PLACE]) == DrainStatus()


def test_envoys_without_a_node_id_are_counted_and_not_named() -> None:
    views = [EnvoyView("", None, None), EnvoyView("f", None, None), EnvoyView("f", 10.0, BUSY)]
    assert drain_status(views, [PLACE]) == DrainStatus(3, 1, 1, 3, ("f",))


def test_a_report_is_read_by_endpoint() -> None:
    def endpoint(port: int, in_progress: int) -> dict[str, object]:
        address = {"socket_address": {"address": "10.0.0.1", "port_value": port}}
        return {"address": address, "total_requests_in_progress": in_progress}

    request = ParseDict(
        {
            "cluster_stats": [
                {
                    "cluster_name": "triton",
                    "upstream_locality_stats": [
                        {"upstream_endpoint_stats": [endpoint(8001, 2), endpoint(8002, 0)]},
                        {"priority": 1, "upstream_endpoint_stats": [endpoint(8001, 1)]},
                    ],
                }
            ]
        },
        lrs_pb2.LoadStatsRequest(),
    )
    report = read_report(request, 5.0)
    assert report == LoadReport(5.0, {PLACE: 3, ("triton", "10.0.0.1", 8002): 0}, SERVICES)
    assert read_report(lrs_pb2.LoadStatsRequest(), 5.0) == LoadReport(5.0, {})


def test_all_clusters_of_a_service_are_summed_up() -> None:
    released = ("triton~release", "10.0.0.1", 8001)
    report = LoadReport(20.0, {PLACE: 3, released: 2}, frozenset({"triton", "triton~release"}))
    view = EnvoyView("e", 10.0, report)
    assert counted(drain_status([view], [PLACE, released])) == DrainStatus(1, 1, 1, 5)
    # The release has ended here, and the Envoy has not received that.
    assert counted(drain_status([view], [PLACE], [released])) == DrainStatus(1, 1, 1, 5)
    # It has not, and the Envoy does not count for it yet.
    view = EnvoyView("e", 10.0, BUSY)
    assert counted(drain_status([view], [PLACE, released])) == DrainStatus(1, 1, 0, 0)
    assert counted(drain_status([view], [PLACE], [released])) == DrainStatus(1, 1, 1, 3)
