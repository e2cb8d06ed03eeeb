"""The Lua filter with which Envoy holds back requests that crashed two instances. Pure.

`quarantine.lua` says what it does; docs/decisions/0034 why it does it there.
"""

from pathlib import Path

# Imported for their types, which only `@type` names.
from envoy.extensions.filters.http.header_mutation.v3 import (
    header_mutation_pb2 as _mutation,  # noqa: F401
)
from envoy.extensions.filters.http.lua.v3 import lua_pb2 as _lua  # noqa: F401
from envoy.extensions.filters.http.upstream_codec.v3 import (
    upstream_codec_pb2 as _codec,  # noqa: F401
)

from sidecar.xds.config.methods import INFER_PATH, STREAM_PATH
from sidecar.xds.config.no_healthy_upstream import REFUSING_HOST
from sidecar.xds.config.protojson import Table, named, typed

# Fingerprints of requests to look out for, each with the reason for its refusal (empty while
# nothing is proven). A fingerprint begins with the service's name.
Watchlist = frozenset[tuple[str, str]]
# The control plane's cluster in envoy/bootstrap.yaml.
PLANE = "control_plane"
# Each attempt adds a value: the instance that it goes to, and the bytes of headers that all earlier
# attempts sent and received. Not accepted from outside.
TRIED = "x-triton-sidecar-tried"
_TRIED = "%UPSTREAM_HOST% %UPSTREAM_HEADER_BYTES_SENT% %UPSTREAM_HEADER_BYTES_RECEIVED%"
# The number of the attempt, not counting the first repetition on an instance; absent in the first.
TURN = "x-triton-sidecar-turn"
# The number under which Envoy keeps the first message of a stream that was lost once.
NUMBER = "x-triton-sidecar-stream"
# Request headers that are not accepted from outside.
INTERNAL_HEADERS = (TRIED, TURN, NUMBER)
# In each response: the status of one without a message, and which attempt got it.
ANSWERED = "x-triton-sidecar-answered"
_ANSWERED = f"%RESP(GRPC-STATUS)%/%REQ({TURN})%"
_FIRST = ""  # Envoy's value for a missing header
# Attempts beyond the policy, each of which has to be granted. Envoy picks an instance before it
# asks, and may pick crashed ones until it hears of that; and a granted attempt may be lost again if
# another request takes connections down.
EXTRA_ATTEMPTS = 12
_OFTEN = 16
_LUA = "envoy.filters.http.lua"
_SCRIPT = "\n".join(
    Path(__file__).with_name(f"{name}.lua").read_text(encoding="utf-8")
    for name in ("messages", "quarantine")
)
_NAMES = {
    "@PLANE@": PLANE,
    "@TRIED@": TRIED,
    "@TURN@": TURN,
    "@NUMBER@": NUMBER,
    "@REFUSING_HOST@": REFUSING_HOST,
    "@UNARY@": INFER_PATH,
    "@STREAM@": STREAM_PATH,
}
for _name, _value in _NAMES.items():
    _SCRIPT = _SCRIPT.replace(_name, _value)


def http_filters() -> list[Table]:
    """The filters of a cluster, which every attempt passes."""
    mutations = {
        "request_mutations": [_added(TRIED, _TRIED, "APPEND_IF_EXISTS_OR_ADD")],
        "response_mutations": [_added(ANSWERED, _ANSWERED, "OVERWRITE_IF_EXISTS_OR_ADD")],
    }
    mutation = typed(
        "extensions.filters.http.header_mutation.v3.HeaderMutation", {"mutations": mutations}
    )
    lua = typed(
        "extensions.filters.http.lua.v3.Lua",
        {"default_source_code": {"inline_string": _SCRIPT}, "stat_prefix": "quarantine"},
    )
    codec = typed("extensions.filters.http.upstream_codec.v3.UpstreamCodec", {})
    return [
        named("envoy.filters.http.header_mutation", mutation),
        named(_LUA, lua),
        named("envoy.filters.http.upstream_codec", codec),
    ]


def retriable_answers(status: int, num_retries: int) -> list[Table]:
    """The answers after which a request is retried, at most `num_retries` times.

    Once more if one instance answered twice, as it does if there is no other. If `num_retries` is
    large, this no longer matters.
    """
    if num_retries > _OFTEN:
        return [{"name": ANSWERED, "string_match": {"prefix": f"{status}/"}}]
    return [
        {"name": ANSWERED, "string_match": {"exact": f"{status}/{turn}"}}
        for turn in (_FIRST, *range(1, num_retries + 1))
    ]


def route_metadata(service: str, watchlist: Watchlist) -> Table:
    """A route's metadata for the script: the fingerprints to hold back, and the refused ones."""
    found: Table = {"service": service}
    if watchlist:
        found["suspects"] = dict(sorted(watchlist))
    return {"filter_metadata": {_LUA: found}}


def service_of(fingerprint: str) -> str:
    """The service that a request was for."""
    return fingerprint.rpartition("/")[0]


def of_service(watchlist: Watchlist, service: str) -> Watchlist:
    """The entries of one service."""
    return frozenset(each for each in watchlist if service_of(each[0]) == service)


def _added(name: str, value: str, action: str) -> Table:
    return {"append": {"header": {"key": name, "value": value}, "append_action": action}}
