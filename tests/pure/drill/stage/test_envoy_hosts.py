"""The instances of a service, from Envoy's admin pages."""

import json
from typing import Any

from sidecar.drill.stage.envoy_hosts import read

HEALTHY = {"eds_health_status": "HEALTHY"}
NAMES = {"10.0.0.1:8001": "triton-0", "10.0.0.2:8001": "triton-1"}


def status(
    number: int, priority: int, active: int = 0, health: dict[str, Any] = HEALTHY
) -> dict[str, Any]:
    return {
        "address": {"socket_address": {"address": f"10.0.0.{number}", "port_value": 8001}},
        "priority": priority,
        "health_status": health,
        "stats": [{"name": "rq_active", "value": str(active)}],
    }


def clusters(**hosts: list[dict[str, Any]]) -> str:
    statuses = [
        {"name": name.replace("_", "~"), "host_statuses": each} for name, each in hosts.items()
    ]
    return json.dumps({"cluster_statuses": statuses})


def test_the_instances_of_a_service_by_id() -> None:
    text = clusters(triton=[status(1, 0, 3), status(3, 1)], other=[status(2, 0)])
    found = read(text, "triton", NAMES)
    assert {name: (host.priority, host.active) for name, host in found.items()} == {
        "triton-0": (0, 3),
        "10.0.0.3:8001": (1, 0),
    }


def test_a_former_cluster_counts_and_so_do_requests_of_a_release() -> None:
    text = clusters(
        triton=[status(1, 1, 2)],
        triton_6f1c09d2=[status(1, 1, 3)],
        triton_release=[status(1, 3, 4)],
    )
    [host] = read(text, "triton", NAMES).values()
    assert (host.priority, host.active, host.usable) == (1, 9, True)


def test_an_instance_is_as_bad_as_in_the_worse_cluster() -> None:
    failed = {"eds_health_status": "HEALTHY", "failed_active_health_check": True}
    for worse, better in ((status(1, 1, 0, failed), status(1, 0)), (status(1, 1), status(1, 0))):
        for pair in ((worse, better), (better, worse)):
            text = clusters(triton=[pair[0]], triton_6f1c09d2=[pair[1]])
            [host] = read(text, "triton", NAMES).values()
            assert (host.priority, host.health) == (1, worse["health_status"])
