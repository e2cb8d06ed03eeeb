"""Mode strict: requests wait while there is no primary, and nothing else is retried more often."""

from dataclasses import replace
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2

from sidecar.traffic.policy import DEFAULTS, Affinity, Limits, Mode, Release, Retry, TrafficPolicy
from sidecar.xds.catalog.catalog import Health, Instance, Leader, ServiceCatalog
from sidecar.xds.config import clusters, no_healthy_upstream
from sidecar.xds.config.endpoints import assign
from sidecar.xds.config.routes import Routing, routes

STRICT = replace(DEFAULTS, mode=Mode.STRICT)
A = Instance("a", "10.0.0.1", 8001, 9001)
B = Instance("b", "10.0.0.2", 8001, 9001)
DOWN = replace(A, health=Health.CRITICAL)


def endpoints(policy: TrafficPolicy, *instances: Instance) -> list[list[tuple[str, str]]]:
    """The endpoints that Envoy gets: name and status of each, by priority."""
    service = ServiceCatalog("s", instances, Leader("a", 1), policy=policy)
    message = clusters.load_assignment(assign(service)["s"])
    assert [each.priority for each in message.endpoints] == list(range(len(message.endpoints)))
    healths: Any = endpoint_healths(message)
    return [
        [(host.endpoint.hostname, healths(host.health_status)) for host in each.lb_endpoints]
        for each in message.endpoints
    ]


def endpoint_healths(message: Any) -> Any:
    host = message.DESCRIPTOR.fields_by_name["endpoints"].message_type
    host = host.fields_by_name["lb_endpoints"].message_type
    values = host.fields_by_name["health_status"].enum_type.values_by_number
    return lambda number: values[number].name


REFUSING = [("nobody", "DEGRADED")]


@pytest.mark.parametrize(
    ("instances", "expected"),
    [
        ((A, B), [[("a", "UNKNOWN")], REFUSING, [("b", "DRAINING")]]),
        ((B,), [REFUSING, [("b", "DRAINING")]]),
        ((DOWN, B), [REFUSING, [("a", "DRAINING"), ("b", "DRAINING")]]),
        ((), [REFUSING]),
    ],
)
def test_in_mode_strict_the_refusing_host_comes_last(
    instances: tuple[Instance, ...], expected: list[list[tuple[str, str]]]
) -> None:
    assert endpoints(STRICT, *instances) == expected


@pytest.mark.parametrize("mode", [mode for mode in Mode if mode is not Mode.STRICT])
def test_in_other_modes_there_is_no_such_host(mode: Mode) -> None:
    weights = (("a", 1),) if mode is Mode.WEIGHTED else ()
    found = endpoints(replace(DEFAULTS, mode=mode, weights=weights), A, B)
    assert REFUSING not in found


def test_the_refusing_host_is_not_health_checked_and_nothing_can_listen_there() -> None:
    endpoint = no_healthy_upstream.refusing_host().endpoint
    assert endpoint.health_check_config.disable_active_health_check
    socket = endpoint.address.socket_address
    assert f"{socket.address}:{socket.port_value}" == no_healthy_upstream.REFUSING_HOST
    assert socket.port_value == 0


def retries(policy: TrafficPolicy, *, guarded: bool = True) -> int:
    """How often a unary request is retried at most; -1 if never."""
    routing = Routing("s", policy, frozenset() if guarded else None)
    every = {each.name: each.route for each in routes((routing,)).virtual_hosts[0].routes}
    found = every["s/unary"]
    return found.retry_policy.num_retries.value if found.HasField("retry_policy") else -1


def with_effects(policy: TrafficPolicy) -> TrafficPolicy:
    return replace(policy, retry=Retry(idempotent=False))


SLOW = replace(STRICT, limits=Limits(per_try_idle_timeout=9.0))


@pytest.mark.parametrize(
    ("policy", "guarded", "expected"),
    [
        (STRICT, True, 1 + no_healthy_upstream.ATTEMPTS),
        (with_effects(STRICT), True, 1 + no_healthy_upstream.ATTEMPTS),
        (with_effects(STRICT), False, 1 + no_healthy_upstream.ATTEMPTS),
        # Requests that crashed an instance, or were too slow for it, would be retried as often.
        (STRICT, False, 1),
        (SLOW, True, 1),
        (replace(STRICT, retry=Retry(num_retries=0)), True, -1),
        (with_effects(DEFAULTS), True, 1),
    ],
)
def test_only_requests_that_reached_no_instance_are_retried_so_often(
    policy: TrafficPolicy, guarded: bool, expected: int
) -> None:
    assert retries(policy, guarded=guarded) == expected


def retry_policy(policy: TrafficPolicy) -> Any:
    routing = Routing("s", policy, frozenset())
    return routes((routing,)).virtual_hosts[0].routes[0].route.retry_policy


def test_attempts_go_to_the_current_primary_after_a_pause() -> None:
    found = retry_policy(STRICT)
    assert not found.HasField("retry_priority")
    assert not found.retry_host_predicate
    pauses = found.retry_back_off
    assert pauses.base_interval.ToMilliseconds() == 25
    assert pauses.max_interval.ToMilliseconds() == 250
    usual = retry_policy(DEFAULTS)
    assert usual.HasField("retry_priority")
    assert usual.retry_host_predicate
    assert usual.retry_back_off.base_interval.ToMilliseconds() == 5
    longer = replace(STRICT, retry=Retry(base_interval=0.5, max_interval=2.0))
    assert retry_policy(longer).retry_back_off.max_interval.ToMilliseconds() == 2000


def cluster(policy: TrafficPolicy) -> Any:
    found: Any = clusters.cluster("s", policy)
    assert isinstance(found, cluster_pb2.Cluster)
    return found


def test_the_only_host_is_not_ejected() -> None:
    enforced = "enforcing_consecutive_local_origin_failure"
    assert getattr(cluster(STRICT).outlier_detection, enforced).value == 0
    assert getattr(cluster(DEFAULTS).outlier_detection, enforced).value == 100


def test_a_service_in_mode_strict_lowers_no_other_limit() -> None:
    def of(policy: TrafficPolicy, *instances: Instance) -> Any:
        service = ServiceCatalog("s", instances, Leader("a", 1), policy=policy)
        return assign(service)["s"], policy

    assert clusters.max_ejection_percent([of(STRICT, A, B)]) is None
    assert clusters.max_ejection_percent([of(STRICT, A, B), of(DEFAULTS, A, B)]) is None
    lowered = clusters.max_ejection_percent([of(DEFAULTS, DOWN, B)])
    assert clusters.max_ejection_percent([of(STRICT, A, B), of(DEFAULTS, DOWN, B)]) == lowered
    # An ejection in another cluster ends at once where no other host can be ejected.
    layer = clusters.runtime([of(STRICT, A, B), of(DEFAULTS, DOWN, B)]).layer
    assert layer["outlier_detection.base_ejection_time_ms"] == 0


def test_affinity_headers_make_no_ring_of_one_host() -> None:
    """A ring would leave out a degraded host, and retry in the priority of a primary that died."""
    affinity = Affinity("", "x-sequence")
    ring, least = cluster_pb2.Cluster.RING_HASH, cluster_pb2.Cluster.LEAST_REQUEST
    assert cluster(replace(STRICT, affinity=affinity)).lb_policy == least
    assert cluster(replace(DEFAULTS, affinity=affinity)).lb_policy == least
    released = replace(DEFAULTS, affinity=affinity, release=Release(tag="next", percent=10))
    assert cluster(released).lb_policy == least  # the primary may be the release
    sharing = replace(DEFAULTS, mode=Mode.ACTIVE_ACTIVE, affinity=affinity)
    assert cluster(sharing).lb_policy == ring


def test_waiting_bodies_get_half_of_the_memory() -> None:
    limits = Limits(retry_memory_bytes=2**31, retry_body_bytes=2**26)  # 32 bodies
    lax, strict = (replace(policy, limits=limits) for policy in (DEFAULTS, STRICT))
    assert clusters.max_requests(lax, None) + clusters.max_pending(lax) == 32
    assert clusters.max_requests(strict, None) + clusters.max_pending(strict) == 16
    [allowed] = cluster(strict).circuit_breakers.thresholds
    assert allowed.retry_budget.min_retry_concurrency.value == 8  # as if there were a release
    [allowed] = cluster(STRICT).circuit_breakers.thresholds
    assert allowed.retry_budget.min_retry_concurrency.value == 4096


@pytest.mark.parametrize("bodies", [2, 7, 64, 1000])
@pytest.mark.parametrize("shared", [False, True])
def test_all_requests_in_flight_may_wait_at_once(bodies: int, shared: bool) -> None:
    """Each of them has no connection, and one above the limit would fail."""
    limits = Limits(retry_memory_bytes=bodies * 2**20, retry_body_bytes=2**20)
    policy = replace(STRICT, limits=limits)
    [allowed] = cluster(policy).circuit_breakers.thresholds
    pending = clusters.max_pending(policy, shared=shared)
    flying = clusters.max_requests(policy, None, shared=shared)
    assert min(pending, allowed.retry_budget.min_retry_concurrency.value) >= flying - 1
    assert pending + flying <= max(2, bodies // 2)
