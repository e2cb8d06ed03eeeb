"""The constraints on a traffic policy: for each value, and across several. Pure.

Envoy accepts every policy that satisfies them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from sidecar.traffic.document_values import (
    Rule,
    choice,
    duration,
    flag,
    free_text,
    header,
    key,
    matching,
    number,
    shown,
    whole,
)
from sidecar.traffic.policy import Mode, RoutingMode, StatusCode, TrafficPolicy

_PERCENT = whole(0, 100)
_NAME = r"[A-Za-z0-9._-]{1,255}"
# As in `triton.models` of the settings; the name of a folder.
_MODEL = matching(
    r"[^/\x00-\x1f\x7f\ud800-\udfff]{1,255}", "a model's name: no slash, no control character"
)
# Envoy sums up the weights of a priority in 32 bits; each is at most 65,535.
_MOST_WEIGHTS = 2**16
_MOST_DATACENTERS = 16
_SHARING = (Mode.ACTIVE_ACTIVE, Mode.WEIGHTED)

# The rule of each key by its path; `*` is an element of a list or a value of an object.
RULES: Mapping[str, Rule] = {
    "mode": choice(Mode),
    "weights.*": whole(1, 65_535),
    "release.model_set": matching(
        "[A-Za-z0-9._:-]{1,128}", "the digest of a model set as `triton-sidecar list` shows it"
    ),
    "release.tag": matching(r"[!-~]([ -~]{0,126}[!-~])?", "a tag of up to 128 characters"),
    "release.percent": _PERCENT,
    "release.sticky_header": header(),
    "release.guard.max_error_percent": number(0, 100),
    "release.guard.max_latency": duration(),
    "release.guard.min_requests": whole(1),
    "release.guard.window": duration(900),  # control planes keep as much
    "release.rolled_back": free_text(1000),
    "affinity.header": header(),
    "affinity.sequence_header": header(),
    "locality.prefer_zone": flag(),
    "locality.datacenters.*": matching(
        "[A-Za-z0-9_-]{1,64}", "a datacenter's name: letters, digits, _ and -"
    ),
    "limits.max_requests": whole(1),
    "limits.max_connections": whole(1),
    "limits.retry_budget_percent": number(0, 100),
    "limits.min_retry_concurrency": whole(0),
    "limits.retry_body_bytes": whole(1),
    "limits.retry_memory_bytes": whole(1, 2**53),  # beyond that, numbers in JSON are not exact
    "limits.per_try_idle_timeout": duration(),
    "limits.slow_start": duration(),
    "limits.stream_idle_timeout": duration(),
    "limits.max_stream_duration": duration(),
    "health_check.interval": duration(),
    "health_check.timeout": duration(),
    "health_check.unhealthy_threshold": whole(1),
    "health_check.healthy_threshold": whole(1),
    "health_check.interval_jitter_percent": _PERCENT,
    "health_check.healthy_panic_threshold": _PERCENT,
    "outlier_detection.consecutive_local_origin_failure": whole(1),
    "outlier_detection.interval": duration(),
    "outlier_detection.base_ejection_time": duration(),
    "outlier_detection.max_ejection_time": duration(),
    "outlier_detection.max_ejection_percent": _PERCENT,
    "retry.num_retries": whole(0, 100),
    "retry.base_interval": duration(),
    "retry.max_interval": duration(),
    "retry.host_selection_retry_max_attempts": whole(1, 10_000),
    "retry.retryable_status_codes.*": choice(StatusCode),
    "retry.idempotent": flag(),
    "connection.connect_timeout": duration(),
    "connection.keepalive_interval": duration(),
    "connection.keepalive_timeout": duration(),
    "connection.per_connection_buffer_limit_bytes": whole(16_384),
    # A wildcard would take requests of other services; the port is added when routes are built.
    "match.authorities.*": matching(
        r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]", "a host's name or address, without a port"
    ),
    "match.path_prefixes.*": matching(
        r"/[!-\"$->@-~]{0,1023}", 'the beginning of a path, such as "/inference."'
    ),
    "match.headers.*": matching(r"[!-~]([ -~]{0,1022}[!-~])?", "the value of a header in ASCII"),
    "admission.methods.*": matching(
        r"/[A-Za-z_][A-Za-z0-9_.]{0,511}/([A-Za-z_][A-Za-z0-9_]{0,255})?",
        'a method such as "/inference.GRPCInferenceService/RepositoryIndex", or a service with all '
        'of its methods, such as "/my.Service/"',
    ),
    "routing": choice(RoutingMode),
    "models.*.to": _MODEL,
    "models.*.fallback.*": _MODEL,
}
# The rules for keys of objects whose keys are not part of the schema.
KEYS: Mapping[str, Rule] = {
    "weights": matching(_NAME, "the id of an instance in Consul"),
    "match.headers": header(),
    "models": _MODEL,
}

Problem = tuple[str, str]
"""The path of a key, and what is wrong there."""


def _weights(policy: TrafficPolicy) -> Iterator[Problem]:
    weighted = policy.mode is Mode.WEIGHTED
    if weighted and not policy.weights:
        yield "weights", 'expected at least one instance with mode "weighted"'
    if policy.weights and not weighted:
        yield "weights", f'expected none with mode "{policy.mode.value}": only "weighted" has them'
    if len(policy.weights) > _MOST_WEIGHTS:
        yield "weights", f"expected at most {_MOST_WEIGHTS} instances, found {len(policy.weights)}"


def _release(policy: TrafficPolicy) -> Iterator[Problem]:
    release = policy.release
    if release and not release.model_set and not release.tag:
        yield "release", "expected model_set or tag: which instances it is about"
    if release and release.model_set and release.tag:
        yield "release", "expected model_set or tag, not both"


def _release_in_strict(policy: TrafficPolicy) -> Iterator[Problem]:
    if policy.release and policy.mode is Mode.STRICT:
        yield "release", 'expected none with mode "strict": the primary is alone there'


def _panic(policy: TrafficPolicy) -> Iterator[Problem]:
    if policy.health_check.healthy_panic_threshold and policy.mode is Mode.STRICT:
        path = "health_check.healthy_panic_threshold"
        yield path, 'expected 0 with mode "strict": the primary is alone there'


def _guard(policy: TrafficPolicy) -> Iterator[Problem]:
    guard = policy.release.guard if policy.release else None
    if guard and guard.max_error_percent is None and guard.max_latency is None:
        yield "release.guard", "expected max_error_percent, max_latency or both"


def _affinity(policy: TrafficPolicy) -> Iterator[Problem]:
    if policy.affinity.header and policy.mode not in _SHARING:
        modes = " or ".join(f'"{mode.value}"' for mode in _SHARING)
        yield "affinity.header", f"expected mode {modes}: elsewhere one instance has all requests"


def _models(policy: TrafficPolicy) -> Iterator[Problem]:
    if policy.models and not policy.by_model:
        yield "models", f'expected none without routing "{RoutingMode.BY_MODEL}", which reads them'
    for name, rule in policy.models:
        path = f"models.{key(name)}"
        if not rule.to and not rule.fallback:
            yield path, "expected to, fallback or both: which models answer"
        for model, count in Counter((rule.to or name, *rule.fallback)).items():
            if count > 1:
                yield path, f"expected each model once, found {shown(model)} {count} times"


def _retry_memory(policy: TrafficPolicy) -> Iterator[Problem]:
    memory, body = policy.limits.retry_memory_bytes, policy.limits.retry_body_bytes
    if memory is not None and memory < body:
        wanted = f"at least limits.retry_body_bytes ({body})"
        yield "limits.retry_memory_bytes", f"expected {wanted}, found {memory}"


def _retry_intervals(policy: TrafficPolicy) -> Iterator[Problem]:
    retry = policy.retry
    if retry.max_interval < retry.base_interval:
        yield "retry.max_interval", _at_least("retry.base_interval", retry.base_interval)


def _ejection_times(policy: TrafficPolicy) -> Iterator[Problem]:
    base = policy.outlier_detection.base_ejection_time
    if policy.outlier_detection.max_ejection_time < base:
        path = "outlier_detection.max_ejection_time"
        yield path, _at_least("outlier_detection.base_ejection_time", base)


def _datacenters(policy: TrafficPolicy) -> Iterator[Problem]:
    # Envoy supports 128 priorities, and each datacenter has several.
    found = len(policy.locality.datacenters)
    if found > _MOST_DATACENTERS:
        yield "locality.datacenters", f"expected at most {_MOST_DATACENTERS}, found {found}"


def _distinct(policy: TrafficPolicy) -> Iterator[Problem]:
    match = policy.match
    # Envoy compares authorities case-insensitively.
    listed = {
        "locality.datacenters": policy.locality.datacenters,
        "match.authorities": tuple(each.lower() for each in match.authorities),
        "match.path_prefixes": match.path_prefixes,
        "retry.retryable_status_codes": policy.retry.retryable_status_codes,
        "admission.methods": policy.admission.methods,
    }
    for path, values in listed.items():
        for value, count in Counter(values).items():
            if count > 1:
                yield path, f"expected each once, found {shown(value)} {count} times"


def _at_least(path: str, seconds: float) -> str:
    return f"expected at least {path} ({seconds:g}s)"


# Each check with the keys that it reads: it is skipped if one of them is already wrong.
CROSS_FIELD: tuple[tuple[tuple[str, ...], Callable[[TrafficPolicy], Iterator[Problem]]], ...] = (
    (("mode", "weights"), _weights),
    (("release.model_set", "release.tag"), _release),
    (("mode", "release"), _release_in_strict),
    (("mode", "health_check.healthy_panic_threshold"), _panic),
    (("release.guard",), _guard),
    (("mode", "affinity.header"), _affinity),
    (("routing", "models"), _models),
    (("limits.retry_memory_bytes", "limits.retry_body_bytes"), _retry_memory),
    (("retry.base_interval", "retry.max_interval"), _retry_intervals),
    (
        ("outlier_detection.base_ejection_time", "outlier_detection.max_ejection_time"),
        _ejection_times,
    ),
    (("locality.datacenters",), _datacenters),
    (
        (
            *("locality.datacenters", "match.authorities", "match.path_prefixes"),
            *("retry.retryable_status_codes", "admission.methods"),
        ),
        _distinct,
    ),
)
