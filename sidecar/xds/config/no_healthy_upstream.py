"""Where nobody serves, requests wait at Envoy for a moment instead of failing (decision 61). Pure.

In mode `strict` each move of the role has such a moment: the former primary stops before the new
one begins, and Envoy asks neither in that very instant. So a cluster has one more host, which gets
what nobody else can be sent and refuses at once. Envoy then tries again after a pause, and picks a
host anew.
"""

from functools import cache
from typing import Any

from envoy.config.endpoint.v3 import endpoint_components_pb2

# Imported for its type: it is named only in `@type`.
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2 as _cel  # noqa: F401

from sidecar.traffic.policy import Mode, TrafficPolicy
from sidecar.xds.config.protojson import Table, address, named, parse, seconds, typed

# Nobody can listen at port 0, and who connects to it is refused within the machine.
_HOST, _PORT = "127.0.0.1", 0
NOBODY = f"{_HOST}:{_PORT}"  # as Envoy writes it
# Attempts beyond those of the policy. With the pauses below they take 2.2 s on average, and hardly
# any request has used them up within one: Envoy draws each pause anew, from none to the whole.
ATTEMPTS = 20
# Seconds of the first pause, which doubles, and of the longest: what a request waits at most after
# there is somebody again. Shorter costs Envoy as many more attempts of each that waits.
_BASE_INTERVAL, _MAX_INTERVAL = 0.025, 0.25
_TOLD = "no healthy upstream: there is no primary that serves"


def waits(policy: TrafficPolicy) -> bool:
    """Whether requests wait where nobody serves."""
    return policy.mode is Mode.STRICT


@cache
def nobody() -> Any:
    """The host that refuses at once (envoy.config.endpoint.v3.LbEndpoint).

    It is not checked. As a degraded one it gets requests only where no healthy one is, and no gauge
    counts it as healthy.
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
        },
    )


def back_off(policy: TrafficPolicy) -> Table:
    """The pauses between attempts: as the policy says, and no shorter than is good for waiting."""
    base, longest = policy.retry.base_interval, policy.retry.max_interval
    if waits(policy):
        base, longest = max(base, _BASE_INTERVAL), max(longest, _MAX_INTERVAL)
    return {"base_interval": seconds(base), "max_interval": seconds(max(base, longest))}


def told() -> Table:
    """What is said to those who met nobody at last: a mapper of Envoy's LocalReplyConfig."""
    met_nobody = typed(
        "extensions.access_loggers.filters.cel.v3.ExpressionFilter",
        {"expression": f"upstream.address == '{NOBODY}'"},
    )
    return {
        "filter": {
            "extension_filter": named("envoy.access_loggers.extension_filters.cel", met_nobody)
        },
        "body": {"inline_string": _TOLD},
        # A body that is too large to be kept would be the one that fails otherwise: with UNKNOWN.
        "status_code": 503,
    }
