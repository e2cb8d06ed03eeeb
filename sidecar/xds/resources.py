"""Envoy's configuration as Envoy's documentation writes it: nested tables, checked by its schema.

Cluster names are service names. Sources: Envoy's v3 API reference and the facts recorded in
docs/decisions.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2

# Imported for their types: they are named only in `@type`.
from envoy.extensions.access_loggers.stream.v3 import stream_pb2 as _stream  # noqa: F401
from envoy.extensions.filters.http.grpc_stats.v3 import config_pb2 as _grpc_stats  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2 as _router  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as _manager,  # noqa: F401
)
from envoy.extensions.retry.host.previous_hosts.v3 import (
    previous_hosts_pb2 as _hosts,  # noqa: F401
)
from envoy.extensions.retry.priority.previous_priorities.v3 import (
    previous_priorities_config_pb2 as _priorities,  # noqa: F401
)
from envoy.extensions.upstreams.http.v3 import (
    http_protocol_options_pb2 as _http,  # noqa: F401
)
from google.protobuf.json_format import ParseDict

from sidecar.xds.catalog import Instance
from sidecar.xds.endpoints import Assignment
from sidecar.xds.policy import TrafficPolicy

ROUTES = "triton"
LISTENER = "triton"
STREAM_PATH = "/inference.GRPCInferenceService/ModelStreamInfer"
_TYPES = "type.googleapis.com/envoy."
_ADS = {"ads": {}, "resource_api_version": "V3"}
Table = dict[str, Any]


@lru_cache
def cluster(service: str, policy: TrafficPolicy) -> Any:
    """A service's cluster (envoy.config.cluster.v3.Cluster); its endpoints come by EDS."""
    return _parse(
        cluster_pb2.Cluster(),
        {
            "name": service,
            "type": "EDS",
            "eds_cluster_config": {"eds_config": _ADS},
            "connect_timeout": _seconds(policy.connect_timeout),
            "per_connection_buffer_limit_bytes": policy.per_connection_buffer_limit,
            # Generations differ a lot in length; turns would pile the long ones up on one host.
            "lb_policy": "LEAST_REQUEST",
            "common_lb_config": {
                # Default 50 %: below that Envoy would send requests to hosts known to be bad.
                "healthy_panic_threshold": {"value": 0},
                # Default 1 s: how long Envoy would sit on a change of health or weight.
                "update_merge_window": "0s",
            },
            # A host that the catalog drops must go although its health check still passes.
            "ignore_health_on_host_removal": True,
            "typed_extension_protocol_options": _upstream_http2(policy),
            "health_checks": [_health_check(policy)],
            "outlier_detection": _outlier_detection(policy),
            "circuit_breakers": _circuit_breakers(policy),
        },
    )


def load_assignment(assignment: Assignment) -> Any:
    """A service's endpoints (envoy.config.endpoint.v3.ClusterLoadAssignment)."""
    groups = [
        [_endpoint(instance, "UNKNOWN") for instance in group] for group in assignment.priorities
    ]
    if assignment.withdrawn:
        groups.append([_endpoint(instance, "DRAINING") for instance in assignment.withdrawn])
    localities = [
        {"priority": priority, "lb_endpoints": endpoints}
        for priority, endpoints in enumerate(groups)
    ]
    return _parse(
        endpoint_pb2.ClusterLoadAssignment(),
        {"cluster_name": assignment.service, "endpoints": localities},
    )


@lru_cache
def listener(policy: TrafficPolicy) -> Any:
    """The one listener (envoy.config.listener.v3.Listener); its routes come by RDS."""
    chain = {"filters": [_named("envoy.filters.network.http_connection_manager", _hcm(policy))]}
    return _parse(
        listener_pb2.Listener(),
        {
            "name": LISTENER,
            "address": _address(policy.listen_host, policy.listen_port),
            "per_connection_buffer_limit_bytes": policy.per_connection_buffer_limit,
            # gRPC clients keep few connections for long: by chance one worker would get them all.
            "connection_balance_config": {"exact_balance": {}},
            "filter_chains": [chain],
        },
    )


@lru_cache
def routes(services: tuple[str, ...], policy: TrafficPolicy) -> Any:
    """Routes to all services (envoy.config.route.v3.RouteConfiguration).

    Requests whose `:authority` names a service go there, all others to the first one.
    """
    hosts = [_virtual_host(service, [service, f"{service}:*"], policy) for service in services[1:]]
    if services:
        hosts.append(_virtual_host(services[0], ["*"], policy))
    return _parse(
        route_pb2.RouteConfiguration(),
        {
            "name": ROUTES,
            "virtual_hosts": hosts,
            # A route may arrive before the cluster that it names; it then answers UNAVAILABLE.
            "validate_clusters": False,
        },
    )


def _upstream_http2(policy: TrafficPolicy) -> Table:
    http2 = {
        "connection_keepalive": {
            "interval": _seconds(policy.keepalive_interval),
            "timeout": _seconds(policy.keepalive_timeout),
        }
    }
    options = _typed(
        "extensions.upstreams.http.v3.HttpProtocolOptions",
        {"explicit_http_config": {"http2_protocol_options": http2}},
    )
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}


def _health_check(policy: TrafficPolicy) -> Table:
    interval = _seconds(policy.health_interval)
    return {
        "timeout": _seconds(policy.health_timeout),
        "interval": interval,
        "interval_jitter_percent": policy.health_jitter_percent,
        # Default 60 s: a standby, which has no traffic, would be found out a minute late.
        "no_traffic_interval": interval,
        "unhealthy_threshold": policy.health_unhealthy_threshold,
        "healthy_threshold": policy.health_healthy_threshold,
        # The sidecar's verdict about the whole instance.
        "grpc_health_check": {"service_name": ""},
    }


def _outlier_detection(policy: TrafficPolicy) -> Table:
    return {
        "interval": _seconds(policy.outlier_interval),
        "base_ejection_time": _seconds(policy.base_ejection_time),
        "max_ejection_time": _seconds(policy.max_ejection_time),
        "max_ejection_percent": policy.max_ejection_percent,
        "always_eject_one_host": False,
        "consecutive_gateway_failure": policy.consecutive_gateway_failure,
        "enforcing_consecutive_gateway_failure": 100,  # default 0: only counted
        # 5xx holds INTERNAL and UNKNOWN, which a request can bring about; the rates need more
        # hosts and requests than a failover has.
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
        "enforcing_failure_percentage": 0,
        # The sidecar may not have noticed yet what ejected the host.
        "successful_active_health_check_uneject_host": False,
    }


def _circuit_breakers(policy: TrafficPolicy) -> Table:
    thresholds = {
        "max_connections": policy.max_connections,
        "max_pending_requests": policy.max_requests,
        "max_requests": policy.max_requests,
        "retry_budget": {
            "budget_percent": {"value": policy.retry_budget_percent},
            "min_retry_concurrency": policy.min_retry_concurrency,
        },
    }
    return {"thresholds": [thresholds]}


def _endpoint(instance: Instance, health_status: str) -> Table:
    return {
        "health_status": health_status,
        "load_balancing_weight": instance.weight,
        "endpoint": {
            "address": _address(instance.address, instance.port),
            # For people, and so that an instance renamed in place is news: what Envoy confirms is
            # then about the instance that it is asked about.
            "hostname": instance.id,
            "health_check_config": {"port_value": instance.health_port},
        },
    }


def _hcm(policy: TrafficPolicy) -> Table:
    router = _named(
        "envoy.filters.http.router", _typed("extensions.filters.http.router.v3.Router", {})
    )
    counted = _typed(
        "extensions.filters.http.grpc_stats.v3.FilterConfig", {"stats_for_all_methods": False}
    )
    return _typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        {
            "stat_prefix": LISTENER,
            "codec_type": "AUTO",
            "rds": {"route_config_name": ROUTES, "config_source": _ADS},
            # Counts each request once by its outcome: `cluster.<service>.grpc.success|failure`.
            "http_filters": [_named("envoy.filters.http.grpc_stats", counted), router],
            # Clients are not trusted to steer Envoy by x-envoy-* headers from outside.
            "use_remote_address": True,
            "stream_idle_timeout": _seconds(policy.stream_idle_timeout),
            "http2_protocol_options": {
                "max_concurrent_streams": policy.max_concurrent_streams,
                "connection_keepalive": {
                    "interval": _seconds(policy.downstream_keepalive_interval),
                    "timeout": _seconds(policy.downstream_keepalive_timeout),
                },
            },
            "access_log": [_failures_log()],
        },
    )


def _failures_log() -> Table:
    """One line of JSON for each request that Envoy itself had to fail."""
    fields = {
        "time": "%START_TIME%",
        "path": "%REQ(:PATH)%",
        "authority": "%REQ(:AUTHORITY)%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "flags": "%RESPONSE_FLAGS%",
        "detail": "%RESPONSE_CODE_DETAILS%",
        "grpc_status": "%GRPC_STATUS%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "upstream": "%UPSTREAM_HOST%",
        "duration_ms": "%DURATION%",
    }
    log = _typed(
        "extensions.access_loggers.stream.v3.StdoutAccessLog",
        {"log_format": {"json_format": fields}},
    )
    # Upstream and routing failures, overload, timeouts; not clients that went away.
    flags = ["UH", "UF", "UC", "UR", "UO", "UT", "URX", "NR", "NC", "LR", "OM", "SI", "DT"]
    return {
        **_named("envoy.access_loggers.stdout", log),
        "filter": {"response_flag_filter": {"flags": flags}},
    }


def _virtual_host(service: str, domains: Sequence[str], policy: TrafficPolicy) -> Table:
    return {
        "name": service,
        "domains": list(domains),
        "request_body_buffer_limit": policy.retry_body_limit,
        "routes": [
            # A stream is not bounded by us either, and is sent again only as a whole, before its
            # first answer. It has a route of its own so that it can be told apart in statistics.
            _route("stream", {"path": STREAM_PATH}, service, policy),
            _route("unary", {"prefix": "/"}, service, policy),
        ],
    }


def _route(name: str, match: Table, service: str, policy: TrafficPolicy) -> Table:
    return {
        "name": f"{service}/{name}",
        "stat_prefix": name,
        "match": match,
        "route": {
            "cluster": service,
            # Default 15 s, retries included. The client's deadline is the only one: 0 as a
            # maximum takes `grpc-timeout` as it is, and none where there is none.
            "timeout": "0s",
            "max_stream_duration": {"grpc_timeout_header_max": "0s"},
            "retry_policy": _retry_policy(policy),
        },
    }


def _retry_policy(policy: TrafficPolicy) -> Table:
    previous_priorities = _typed(
        "extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        {"update_frequency": 1},
    )
    previous_hosts = _typed("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", {})
    return {
        # `reset` holds connections that died or went silent; `unavailable` is gRPC's own.
        "retry_on": "connect-failure,refused-stream,reset,unavailable",
        "num_retries": policy.num_retries,
        # The other priority at once: within the same one the only host is the failing one.
        "retry_priority": _named("envoy.retry_priorities.previous_priorities", previous_priorities),
        "retry_host_predicate": [
            _named("envoy.retry_host_predicates.previous_hosts", previous_hosts)
        ],
        "host_selection_retry_max_attempts": policy.host_selection_retry_max_attempts,
        "retry_back_off": {
            "base_interval": _seconds(policy.retry_base_interval),
            "max_interval": _seconds(policy.retry_max_interval),
        },
    }


def _address(host: str, port: int) -> Table:
    return {"socket_address": {"address": host, "port_value": port}}


def _typed(name: str, body: Table) -> Table:
    return {"@type": _TYPES + name, **body}


def _named(name: str, config: Table) -> Table:
    return {"name": name, "typed_config": config}


def _seconds(seconds: float) -> str:
    """A protobuf duration in JSON, to the microsecond."""
    return f"{seconds:.6f}s"


def _parse(message: Any, body: Table) -> Any:
    return ParseDict(body, message)
