"""Makes requests wait briefly at Envoy while no instance serves (decision 61). Pure.

In mode `strict` each move of the role has such a gap: the former primary stops before the new one
begins, and Envoy gets neither at that very instant. So a cluster has one more host, which gets
the requests that no other can take, and refuses them at once. Envoy then retries after a pause, and
picks a host again.
"""

from functools import lru_cache
from typing import Any

from envoy.config.endpoint.v3 import endpoint_components_pb2

# Imported for its type, which only `@type` names.
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2 as _cel  # noqa: F401

from sidecar.traffic.policy import Mode, TrafficPolicy
from sidecar.xds.config.filters.model_filter import lb_metadata
from sidecar.xds.config.protojson import Table, address, named, parse, seconds, typed

# Nothing can listen on port 0, and the kernel refuses a connection to it at once.
_HOST, _PORT = "127.0.0.1", 0
REFUSING_HOST = f"{_HOST}:{_PORT}"  # in Envoy's notation
# Attempts beyond those of the policy. With the pauses below they take 2.2 s on average, and hardly
# any request uses them up within one: Envoy draws each pause at random, from zero to the full one.
ATTEMPTS = 20
# Seconds of the first pause, which doubles, and of the longest: the most that a request waits after
# an instance serves again. Shorter pauses cost Envoy proportionally more attempts.
_BASE_INTERVAL, _MAX_INTERVAL = 0.025, 0.25
_ERROR = "no healthy upstream: there is no primary that serves"


def waits(policy: TrafficPolicy) -> bool:
    """Whether requests wait if no instance serves."""
    return policy.mode is Mode.STRICT


@lru_cache(maxsize=64)
def refusing_host(models: tuple[str, ...] = ()) -> Any:
    """The host that refuses at once (envoy.config.endpoint.v3.LbEndpoint).

    It is listed under `models`, if requests are routed by model, and not health-checked. As a
    degraded host it gets requests only if no healthy one exists, and no gauge counts it as healthy.
    """
    return parse(
        endpoint_components_pb2.LbEndpoint(),
        {
            "health_status": "DEGRADED",
            "load_balancing_weight": 1,
            "endpoint": {
                "address": address(_HOST, _PORT),
                "hostname": "nobody",
                "health_check_config": {"disable_active_health_check": True},
            },
            **lb_metadata(models),
        },
    )


def back_off(policy: TrafficPolicy) -> Table:
    """The pauses between attempts: the policy's, but not below those for waiting."""
    base, longest = policy.retry.base_interval, policy.retry.max_interval
    if waits(policy):
        base, longest = max(base, _BASE_INTERVAL), max(longest, _MAX_INTERVAL)
    return {"base_interval": seconds(base), "max_interval": seconds(max(base, longest))}


def local_reply_mapper() -> Table:
    """The error for requests that found no instance in the end: a mapper of LocalReplyConfig."""
    met_refusing_host = typed(
        "extensions.access_loggers.filters.cel.v3.ExpressionFilter",
        {"expression": f"upstream.address == '{REFUSING_HOST}'"},
    )
    return {
        "filter": {
            "extension_filter": named(
                "envoy.access_loggers.extension_filters.cel", met_refusing_host
            )
        },
        "body": {"inline_string": _ERROR},
        # Otherwise a request whose body is too large to be kept would fail with UNKNOWN.
        "status_code": 503,
    }
