"""Envoy's clusters, endpoints and limits (listener and routes: `routes.py`). Pure.

Sources: Envoy's v3 API reference and the facts recorded in docs/decisions.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2

# Imported for their types, which only `@type` names.
from envoy.extensions.upstreams.http.v3 import (
    http_protocol_options_pb2 as _http,  # noqa: F401
)
from envoy.service.runtime.v3 import rtds_pb2

from sidecar.traffic.policy import (
    UNDECLARED,
    Connection,
    HealthCheck,
    Mode,
    TrafficPolicy,
)
from sidecar.xds.catalog.catalog import WHOLE, Instance
from sidecar.xds.config import http2, no_healthy_upstream
from sidecar.xds.config.capabilities import Capabilities
from sidecar.xds.config.endpoints import Assignment, has_release, service_of
from sidecar.xds.config.filters.model_filter import KEY, lb_metadata
from sidecar.xds.config.filters.quarantine_filter import http_filters
from sidecar.xds.config.filters.sequence_filter import lb_config
from sidecar.xds.config.protojson import ADS, Table, address, parse, seconds

# The layer of Envoy's runtime that holds the limits; envoy/bootstrap.yaml requests it.
RUNTIME = "triton"
# Defaults of the policy: seconds to wait for a sidecar's health answer, and how many missing
# answers in a row make a host unhealthy.
_SPEECH_ONLY = 15.0, 2**32 - 1
_SILENCE_TOO = 1.0, 2
# Envoy closes a connection, with everything on it, after this many requests if most were cancelled
# early. Default 500, while a backend just passes on that its users leave. Set to never: the codec
# limits cancellations per second (decision 49).
_CANCELLATIONS = {"overload.premature_reset_total_stream_count": 2**31 - 1}
# Cached endpoint messages, so that changing one costs one.
_KEPT = 32_768
# Cached clusters, some 6 KiB each: one per capability set, and others with each policy.
_CLUSTERS_KEPT = 4096


@lru_cache(maxsize=_CLUSTERS_KEPT)
def cluster(
    name: str,
    policy: TrafficPolicy,
    *,
    quarantine: bool = False,
    counted_as: str = "",
    capabilities: Capabilities = Capabilities.PLAIN,
) -> Any:
    """A cluster (envoy.config.cluster.v3.Cluster); its endpoints come through EDS.

    Its name in statistics is `counted_as`, if not empty. With `quarantine`, a request that crashed
    two instances is not simply sent to a third. It has only fields within the `capabilities`.
    """
    filters = http_filters() if quarantine else []
    connection, check = policy.connection, policy.health_check
    return parse(
        cluster_pb2.Cluster(),
        {
            "name": name,
            "alt_stat_name": counted_as if counted_as != name else "",
            "type": "EDS",
            "eds_cluster_config": {"eds_config": ADS},
            "connect_timeout": seconds(connection.connect_timeout),
            "per_connection_buffer_limit_bytes": connection.per_connection_buffer_limit_bytes,
            **_balancing(policy),
            **_subsets(policy),
            "common_lb_config": {
                # Default 50 %: below that Envoy would send requests to hosts known to be bad.
                "healthy_panic_threshold": {"value": check.healthy_panic_threshold},
                # Default 1 s: how long Envoy would sit on a change of health or weight.
                "update_merge_window": "0s",
                **lb_config(policy),
            },
            # A host that the catalog drops must go even if its health check still passes.
            "ignore_health_on_host_removal": True,
            "typed_extension_protocol_options": _upstream_http2(connection, filters, capabilities),
            "health_checks": [_health_check(check, policy.mode)],
            "outlier_detection": _outlier_detection(policy),
            "circuit_breakers": _circuit_breakers(policy),
        },
    )


def load_assignment(assignment: Assignment) -> Any:
    """A cluster's endpoints (envoy.config.endpoint.v3.ClusterLoadAssignment)."""
    models = dict(assignment.models)
    groups = [_endpoints(group, "UNKNOWN", models) for group in assignment.priorities]
    if assignment.waits:
        every = sorted({model for each in models.values() for model in each})
        groups.append([no_healthy_upstream.refusing_host(tuple(every))])
    if assignment.withdrawn:
        groups.append(_endpoints(assignment.withdrawn, "DRAINING", models))
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=assignment.cluster)
    for priority, group in enumerate(groups):
        message.endpoints.add(priority=priority).lb_endpoints.extend(group)
    return message


def _endpoints(
    group: Iterable[Instance], status: str, models: Mapping[str, tuple[str, ...]]
) -> list[Any]:
    return [
        _endpoint(*_endpoint_fields(instance), status, models.get(instance.id, ()))
        for instance in group
    ]


def runtime(assignments: Iterable[tuple[Assignment, TrafficPolicy]]) -> Any:
    """The limits that depend on the instances (envoy.service.runtime.v3.Runtime).

    Envoy replaces a cluster whose configuration changes, and forgets what is in flight on the old
    one. A runtime value takes effect in place.
    """
    found, layer = tuple(assignments), dict(_CANCELLATIONS)
    names = {assignment.cluster for assignment, _ in found}
    for assignment, policy in found:
        service = service_of(assignment.cluster)
        # With a release, or with former clusters that linger and keep their share.
        shared = sum(service_of(name) == service for name in names) > 1
        limits = f"circuit_breakers.{assignment.cluster}.default."
        layer[limits + "max_requests"] = max_requests(policy, assignment.capacity, shared=shared)
        layer[limits + "max_pending_requests"] = max_pending(policy, shared=shared)
    if (percent := max_ejection_percent(found)) is not None:
        layer["outlier_detection.max_ejection_percent"] = percent
        if not any(_ejectable(assignment, policy) for assignment, policy in found):
            # A host ejected while there were others returns at the next evaluation.
            layer["outlier_detection.base_ejection_time_ms"] = 0
    return parse(rtds_pb2.Runtime(), {"name": RUNTIME, "layer": layer})


def max_ejection_percent(assignments: Iterable[tuple[Assignment, TrafficPolicy]]) -> int | None:
    """Percent of any cluster's hosts that may be ejected; None if each policy's own value holds.

    Envoy counts all listed hosts, so next to a withdrawn one the last good one could be ejected. It
    has one runtime value for all clusters: the lowest one needed is set.
    """
    bounds = [
        (policy.outlier_detection.max_ejection_percent, _percent_of_listed(assignment, policy))
        for assignment, policy in assignments
        if not no_healthy_upstream.waits(policy)  # no ejection there
    ]
    if all(bound == percent for percent, bound in bounds):
        return None
    return min(bound for _, bound in bounds)


def _percent_of_listed(assignment: Assignment, policy: TrafficPolicy) -> int:
    """The percentage of all listed hosts at which no more than `_ejectable` are ejected."""
    percent, listed = policy.outlier_detection.max_ejection_percent, len(assignment.listed)
    if not listed:
        return percent
    # Rounded up: this much would eject one host more.
    too_much = -(-WHOLE * (_ejectable(assignment, policy) + 1) // listed)
    return min(percent, too_much - 1)


def _ejectable(assignment: Assignment, policy: TrafficPolicy) -> int:
    """How many hosts the policy allows to eject, of those that may get requests."""
    if no_healthy_upstream.waits(policy):
        return 0
    return assignment.spare * policy.outlier_detection.max_ejection_percent // WHOLE


def max_requests(policy: TrafficPolicy, declared: int | None, *, shared: bool = False) -> int:
    """The limit of requests in flight; `declared` is the capacity that instances declare.

    The memory is `shared` with a release's cluster, whether or not the policy has a release.
    """
    wished = policy.limits.max_requests or declared or UNDECLARED
    room = _room(policy, shared)
    pending = max_pending(policy, shared=shared)
    return wished if room is None else max(1, min(wished, room - pending))


def max_pending(policy: TrafficPolicy, *, shared: bool = False) -> int:
    """The limit of requests without a connection; with HTTP/2 they only wait for the first one."""
    room = _room(policy, shared)
    # A request that finds no host has no connection until it is refused. So where requests wait, as
    # many may wait as may be in flight: Envoy fails one beyond the limit without a retry.
    part = 2 if no_healthy_upstream.waits(policy) else 4
    return UNDECLARED if room is None else max(1, min(UNDECLARED, room // part))


def _room(policy: TrafficPolicy, shared: bool) -> int | None:
    """Requests whose bodies fit a cluster's share of memory; a release has a separate cluster."""
    limits = policy.limits
    if limits.retry_memory_bytes is None:
        return None
    clusters = 2 if shared or has_release(policy) else 1
    # Half is for waiting requests, which Envoy counts separately.
    parts = 2 if no_healthy_upstream.waits(policy) else 1
    return limits.retry_memory_bytes // max(1, limits.retry_body_bytes) // clusters // parts


def _retries(policy: TrafficPolicy) -> int:
    """Concurrent retries allowed, however few requests are in flight."""
    allowed = policy.limits.min_retry_concurrency
    room = _room(policy, shared=True) if no_healthy_upstream.waits(policy) else None
    return allowed if room is None else min(allowed, max(1, room))


def _balancing(policy: TrafficPolicy) -> Table:
    """How the requests of one priority are distributed over its hosts."""
    # Retries on a ring stay in their priority (envoy#9042), where a primary is alone: what was in
    # flight on it would meet it again. A release's standbys share a priority, but it may consist of
    # the primary, or of one. A ring also omits degraded hosts, which waiting requests need.
    ring = policy.affinity.header or policy.affinity.sequence_header
    if ring and policy.mode in (Mode.ACTIVE_ACTIVE, Mode.WEIGHTED):
        return {"lb_policy": "RING_HASH"}
    window = policy.limits.slow_start
    ramp = {"slow_start_config": {"slow_start_window": seconds(window)}} if window else {}
    if policy.mode is Mode.WEIGHTED:
        # Proportions count requests, not what is in flight.
        return {"lb_policy": "ROUND_ROBIN", "round_robin_lb_config": ramp}
    # Generations vary widely in length; round robin would pile the long ones up on one host.
    return {"lb_policy": "LEAST_REQUEST", "least_request_lb_config": ramp}


def _subsets(policy: TrafficPolicy) -> Table:
    """Makes the load balancer consider only the instances that serve a request's model, if any."""
    if not policy.by_model:
        return {}
    selector = {"keys": [KEY], "fallback_policy": "NO_FALLBACK"}
    subsets = {
        # For requests that name no model.
        "fallback_policy": "ANY_ENDPOINT",
        "subset_selectors": [selector],
        # An instance is in one subset for each of its models.
        "list_as_any": True,
    }
    return {"lb_subset_config": subsets}


def _upstream_http2(
    connection: Connection, filters: list[Table], capabilities: Capabilities
) -> Table:
    options = http2.typed_options(
        "extensions.upstreams.http.v3.HttpProtocolOptions",
        {
            "explicit_http_config": {
                "http2_protocol_options": http2.options(
                    connection.keepalive_interval,
                    connection.keepalive_timeout,
                    connection.per_connection_buffer_limit_bytes,
                    capabilities,
                )
            },
            "common_http_protocol_options": {
                "max_headers_count": http2.MAX_HEADERS_COUNT,
                "max_response_headers_kb": http2.MAX_HEADERS_KB,
            },
            "http_filters": filters,
        },
        capabilities,
    )
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}


def _health_check(check: HealthCheck, mode: Mode) -> Table:
    interval = seconds(check.interval)
    timeout, misses = _SILENCE_TOO if mode is Mode.STRICT else _SPEECH_ONLY
    return {
        "timeout": seconds(check.timeout or timeout),
        "interval": interval,
        "interval_jitter_percent": check.interval_jitter_percent,
        # Default 60 s: a standby, which has no traffic, would be found unhealthy a minute late.
        "no_traffic_interval": interval,
        "unhealthy_threshold": check.unhealthy_threshold or misses,
        "healthy_threshold": check.healthy_threshold,
        # The sidecar's verdict on the whole instance.
        "grpc_health_check": {"service_name": ""},
    }


def _outlier_detection(policy: TrafficPolicy) -> Table:
    outliers = policy.outlier_detection
    # Envoy counts a timed-out attempt as a lost connection, though the request or model was slow,
    # and cannot count one without the other. And where requests wait there is no other host, and
    # the one that refuses them is to be tried again.
    never = policy.times_out_attempts or no_healthy_upstream.waits(policy)
    return {
        "interval": seconds(outliers.interval),
        "base_ejection_time": seconds(outliers.base_ejection_time),
        "max_ejection_time": seconds(outliers.max_ejection_time),
        "max_ejection_percent": outliers.max_ejection_percent,
        "always_eject_one_host": False,
        # Only connection failures that Envoy itself saw. A server's answer may be the fault of a
        # request or model; the rates need more hosts and requests than a failover has.
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": outliers.consecutive_local_origin_failure,
        "enforcing_consecutive_local_origin_failure": 0 if never else 100,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_failure_percentage_local_origin": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
        "enforcing_failure_percentage": 0,
        # The sidecar may not have noticed yet what ejected the host.
        "successful_active_health_check_uneject_host": False,
    }


def _circuit_breakers(policy: TrafficPolicy) -> Table:
    limits = policy.limits
    thresholds = {
        "max_connections": limits.max_connections,
        # `runtime` overrides these, but an Envoy may lack its layer. As if there were a release:
        # one that comes or goes must not replace this cluster.
        "max_pending_requests": max_pending(policy, shared=True),
        "max_requests": max_requests(policy, None, shared=True),
        "retry_budget": {
            "budget_percent": {"value": limits.retry_budget_percent},
            "min_retry_concurrency": _retries(policy),
        },
    }
    return {"thresholds": [thresholds]}


def _endpoint_fields(instance: Instance) -> tuple[str, str, int, int, int]:
    """The fields of an endpoint that Envoy gets."""
    return (
        instance.id,
        instance.address,
        instance.port,
        instance.health_port,
        instance.weight,
    )


@lru_cache(maxsize=_KEPT)
def _endpoint(
    name: str,
    host: str,
    port: int,
    health_port: int,
    weight: int,
    health_status: str,
    models: tuple[str, ...] = (),
) -> Any:
    return parse(
        endpoint_components_pb2.LbEndpoint(),
        {
            "health_status": health_status,
            "load_balancing_weight": weight,
            "endpoint": {
                "address": address(host, port),
                # For people, and so that an instance renamed in place is a change: Envoy's
                # acknowledgement is then about the right instance.
                "hostname": name,
                "health_check_config": {"port_value": health_port},
            },
            **lb_metadata(models),
        },
    )
