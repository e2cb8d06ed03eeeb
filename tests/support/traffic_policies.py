"""Hypothesis strategies: valid traffic policies up to their limits, and invalid documents."""

import string
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from sidecar.traffic.policy import (
    Admission,
    Affinity,
    Connection,
    Guard,
    HealthCheck,
    Limits,
    Locality,
    Match,
    Mode,
    ModelRule,
    OutlierDetection,
    Release,
    Retry,
    RoutingMode,
    StatusCode,
    TrafficPolicy,
)

UINT32 = 2**32 - 1
YEAR = 31_536_000.0


def number(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_subnormal=False)


def whole(low: int, high: int = UINT32) -> st.SearchStrategy[int]:
    return st.sampled_from([low, high]) | st.integers(low, min(high, low + 100))


# With up to nine decimals, as in protobuf.
SECONDS = st.sampled_from([0.001, 0.0015, 1.0, YEAR]) | st.integers(10**6, 10**12).map(
    lambda nanos: float(f"{nanos / 1e9:.9f}")
)
HEADERS = st.sampled_from(["x-session", "x-user", "a", "x!#$%&'*+.^_`|~0", "authorization"])
IDS = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=8)
NAMES = st.sampled_from(["dc1", "dc-2", "dc_3"])
AUTHORITIES = st.sampled_from(["triton", "Chat.example", "10.0.0.7", "[fd00::1]", "a_b"])
PREFIXES = st.sampled_from(["/", "/inference.GRPCInferenceService/", "/a.b/%20", "/%s{x}*"])
VALUES = st.sampled_from(["a", "with space", "a=b; c", "*", "%REQ(x)%", '"quoted"'])


def or_none(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


def listed(values: st.SearchStrategy[str], size: int = 3) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(values, max_size=size, unique_by=str.lower).map(tuple)


def ordered(low: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[float, float]]:
    return st.tuples(low, low).map(lambda pair: (min(pair), max(pair)))


GUARDS = st.builds(
    Guard,
    or_none(number(0, 100)),
    or_none(SECONDS),
    whole(1),
    SECONDS.map(lambda seconds: min(seconds, 900.0)),
).filter(lambda guard: guard.max_error_percent is not None or guard.max_latency is not None)
RELEASES = st.builds(
    lambda which, *rest: Release(*which, *rest),
    st.sampled_from([("files-8f3c0123456789ab", ""), ("", "v2"), ("", "model: a/b")]),
    st.integers(0, 100),
    st.just("") | HEADERS,
    or_none(GUARDS),
    st.just("") | st.sampled_from(["by the guard: 5 % failed", "line\nline", "ünïcode 🙂"]),
)


@st.composite
def limits(draw: Any) -> Limits:
    body = draw(whole(1))
    return Limits(
        max_requests=draw(or_none(whole(1))),
        max_connections=draw(whole(1)),
        retry_budget_percent=draw(number(0, 100)),
        min_retry_concurrency=draw(whole(0)),
        retry_body_bytes=body,
        retry_memory_bytes=draw(or_none(whole(body, 2**53))),
        per_try_idle_timeout=draw(or_none(SECONDS)),
        slow_start=draw(or_none(SECONDS)),
        stream_idle_timeout=draw(SECONDS),
        max_stream_duration=draw(or_none(SECONDS)),
    )


PERCENT = st.integers(0, 100)
OUTLIERS = st.builds(
    lambda count, interval, times, percent: OutlierDetection(
        count, interval, times[0], times[1], percent
    ),
    whole(1),
    SECONDS,
    ordered(SECONDS),
    PERCENT,
)
RETRIES = st.builds(
    lambda count, pauses, *rest: Retry(count, *pauses, *rest),
    whole(0, 100),
    ordered(SECONDS),
    whole(1, 10_000),
    st.lists(st.sampled_from(StatusCode), min_size=1, unique=True).map(tuple),
    st.booleans(),
)
METHODS = st.sampled_from([
    *("/inference.GRPCInferenceService/RepositoryIndex", "/inference.GRPCInferenceService/"),
    *("/inference.GRPCInferenceService/ModelInfer", "/a.b/", "/a.b/C_d", "/x/y"),
])  # fmt: skip
ADMISSIONS = st.builds(Admission, listed(METHODS))
CONNECTIONS = st.builds(Connection, SECONDS, SECONDS, SECONDS, whole(16_384))
MATCHES = st.builds(
    Match,
    listed(AUTHORITIES),
    listed(PREFIXES),
    st.dictionaries(HEADERS, VALUES, max_size=2).map(lambda found: tuple(sorted(found.items()))),
)


MODELS = st.sampled_from(["chat", "qwen-7b", "a b", "modèle", "m.1", 'quoted"'])


@st.composite
def model_rules(draw: Any) -> tuple[tuple[str, ModelRule], ...]:
    found = {}
    for name in draw(st.lists(MODELS, max_size=3, unique=True)):
        to, *fallback = draw(st.lists(MODELS, min_size=1, max_size=3, unique=True))
        found[name] = ModelRule(to, tuple(fallback))
    return tuple(sorted(found.items()))


def health_checks(mode: Mode) -> st.SearchStrategy[HealthCheck]:
    panic = PERCENT if mode is not Mode.STRICT else st.just(0)
    return st.builds(HealthCheck, SECONDS, SECONDS, whole(1), whole(1), PERCENT, panic)


def usually(usual: object, others: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.just(usual) | others


@st.composite
def policies(draw: Any) -> TrafficPolicy:
    """Valid policies."""
    mode = draw(st.sampled_from(Mode))
    sharing = mode in (Mode.ACTIVE_ACTIVE, Mode.WEIGHTED)
    routing = draw(st.sampled_from(RoutingMode))
    weights = draw(st.dictionaries(IDS, whole(1, 65_535), min_size=1, max_size=4))
    return TrafficPolicy(
        mode=mode,
        weights=tuple(sorted(weights.items())) if mode is Mode.WEIGHTED else (),
        release=draw(or_none(RELEASES)) if mode is not Mode.STRICT else None,
        affinity=Affinity(
            draw(st.just("") | HEADERS) if sharing else "", draw(st.just("") | HEADERS)
        ),
        locality=Locality(draw(st.booleans()), draw(listed(NAMES))),
        limits=draw(usually(Limits(), limits())),
        health_check=draw(usually(HealthCheck(), health_checks(mode))),
        outlier_detection=draw(usually(OutlierDetection(), OUTLIERS)),
        retry=draw(usually(Retry(), RETRIES)),
        connection=draw(usually(Connection(), CONNECTIONS)),
        match=draw(usually(Match(), MATCHES)),
        admission=draw(usually(Admission(), ADMISSIONS)),
        routing=routing,
        models=draw(model_rules()) if routing is RoutingMode.BY_MODEL else (),
    )


ODD = st.sampled_from([
    *(0, 1, -1, 2**31, 2**32, 2**53 + 1, 2**64, 10**400, 0.0, 0.5, 1e308, -0.0, True, False, None),
    *(float("nan"), float("inf"), float("-inf"), "", "0s", "1s", "-1s", "1_0s", "\u0661s", "1e3s"),
    *("0.0000000001s", "NaN", "Infinity", "5", "5.0", "1" * 5000, "\ud800", "\0", "x\n", "*"),
    *("host", "Connection", ":path", "weighted", "strict", "/", "/a?b", "[]", "a:8001", "\u017f"),
])  # fmt: skip
ANYTHING = st.recursive(
    ODD | st.text(max_size=4) | st.integers() | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def spoilt(draw: Any, tree: Mapping[str, Any]) -> Any:
    """A document in which something is replaced, added or removed."""
    found: dict[str, Any] = dict(tree)
    keys = sorted(found)
    what = draw(st.sampled_from(["add", "replace", "inside", "inside"])) if keys else "add"
    if what == "add":
        found[draw(st.text(max_size=3) | st.sampled_from(["weights", "guard", "retry"]))] = draw(
            ANYTHING
        )
        return found
    key = draw(st.sampled_from(keys))
    if what == "inside" and isinstance(found[key], dict):
        found[key] = draw(spoilt(found[key]))
    else:
        found[key] = draw(ANYTHING)
    return found
