"""When Envoy retries a request, and on which instance. Pure."""

# Imported for their types, which only `@type` names.
from envoy.extensions.retry.host.previous_hosts.v3 import (
    previous_hosts_pb2 as _hosts,  # noqa: F401
)
from envoy.extensions.retry.priority.previous_priorities.v3 import (
    previous_priorities_config_pb2 as _priorities,  # noqa: F401
)

from sidecar.traffic.policy import StatusCode, TrafficPolicy
from sidecar.xds.config import no_healthy_upstream
from sidecar.xds.config.filters.quarantine_filter import retriable_answers
from sidecar.xds.config.protojson import Table, named, seconds, typed

# Envoy has names for only some of these codes; it reads the `grpc-status` of a headers-only
# response, which is one without a message.
_NUMBERS = {
    StatusCode.UNKNOWN: 2,
    StatusCode.NOT_FOUND: 5,
    StatusCode.RESOURCE_EXHAUSTED: 8,
    StatusCode.ABORTED: 10,
    StatusCode.INTERNAL: 13,
    StatusCode.UNAVAILABLE: 14,
    StatusCode.DATA_LOSS: 15,
}


def retry_policy(policy: TrafficPolicy, *, idempotent: bool, further: int = 0) -> Table:
    """Envoy's config.route.v3.RetryPolicy.

    Args:
        policy: of the service.
        idempotent: whether a request that has reached a server may be retried.
        further: attempts beyond what the policy allows, each of which has to be granted.
    """
    retry, alone = policy.retry, no_healthy_upstream.waits(policy)
    found: Table = {
        "retry_on": "connect-failure,refused-stream,reset-before-request",
        "num_retries": retry.num_retries + further,
        "retry_back_off": no_healthy_upstream.back_off(policy),
        # The primary is alone in mode strict: there is no other instance to prefer.
        **({} if alone else _elsewhere(policy)),
    }
    if idempotent:
        # `reset` includes connections that died or went silent.
        found["retry_on"] = "connect-failure,refused-stream,reset"
        # A primary that is alone would give the same answer again.
        if not alone:
            found["retry_on"] += ",retriable-headers"
            found["retriable_headers"] = [
                header
                for code in retry.retryable_status_codes
                for header in _retriable_answers(_NUMBERS[code], retry.num_retries, further)
            ]
        if policy.limits.per_try_idle_timeout is not None:
            found["per_try_idle_timeout"] = seconds(policy.limits.per_try_idle_timeout)
    return found


def _elsewhere(policy: TrafficPolicy) -> Table:
    """Makes an attempt go to an instance that was not tried yet, if there is one."""
    previous_priorities = typed(
        "extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        # Another priority at once, if there is one: the first may have a single host.
        {"update_frequency": 1},
    )
    previous_hosts = typed("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", {})
    return {
        "retry_priority": named("envoy.retry_priorities.previous_priorities", previous_priorities),
        "retry_host_predicate": [
            named("envoy.retry_host_predicates.previous_hosts", previous_hosts)
        ],
        "host_selection_retry_max_attempts": policy.retry.host_selection_retry_max_attempts,
    }


def _retriable_answers(status: int, num_retries: int, further: int) -> list[Table]:
    """The answers that are retried; they get none of the `further` attempts."""
    if further:
        return retriable_answers(status, num_retries)
    return [{"name": "grpc-status", "string_match": {"exact": str(status)}}]
