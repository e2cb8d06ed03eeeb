"""The filter by which Envoy continues a sequence where it began.

The scripts beside this module say what it does; docs/decisions/0057 why it does it there.
"""

from collections.abc import Iterable
from pathlib import Path

# Imported for their types: they are named only in `@type`.
from envoy.extensions.filters.http.buffer.v3 import buffer_pb2 as _buffer  # noqa: F401
from envoy.extensions.filters.http.lua.v3 import lua_pb2 as _lua  # noqa: F401

from sidecar.traffic.policy import MIB, Mode, TrafficPolicy
from sidecar.xds.catalog import Instance
from sidecar.xds.methods import INFER_PATH, STREAM_PATH
from sidecar.xds.tables import Table, named, typed
from sidecar.xds.waiting import ATTEMPTS, waits

_BUFFER, _LUA = "envoy.filters.http.buffer", "envoy.filters.http.lua"
# In each answer, for the script alone: which instance gave it.
PLACE = "x-triton-sidecar-place"
_NAME = "sequences"
_SCRIPT = "\n".join(
    Path(__file__).with_name(f"{name}.lua").read_text(encoding="utf-8")
    for name in ("messages", _NAME)
)
for _mark, _value in {"@PLACE@": PLACE, "@STREAM@": STREAM_PATH}.items():
    _SCRIPT = _SCRIPT.replace(_mark, _value)
# Whatever Envoy thinks of the instance that has a sequence: no other one has it.
_ANY = ["UNKNOWN", "HEALTHY", "UNHEALTHY", "DRAINING", "TIMEOUT", "DEGRADED"]


def http_filters() -> list[Table]:
    """The listener's filters, which do nothing but on the routes that ask for it.

    They are always there: a listener that changes is drained.
    """
    # What the script holds back would else be limited by a window of HTTP/2.
    buffer = typed("extensions.filters.http.buffer.v3.Buffer", {"max_request_bytes": MIB})
    lua = typed(
        "extensions.filters.http.lua.v3.Lua",
        {"source_codes": {_NAME: {"inline_string": _SCRIPT}}, "stat_prefix": _NAME},
    )
    found = (named(_BUFFER, buffer), named(_LUA, lua))
    return [{**each, "disabled": True} for each in found]


def followed(path: str, service: str, policy: TrafficPolicy, ill: Iterable[str]) -> Table:
    """What a route for requests of sequences says beside where they go.

    Args:
        path: the method that the route matches.
        service: whose sequences they are; another one's may have the same model and id.
        policy: of the service.
        ill: addresses of instances on which no sequence is continued.
    """
    if path not in (INFER_PATH, STREAM_PATH):
        return {}
    filters = {_LUA: typed("extensions.filters.http.lua.v3.LuaPerRoute", {"name": _NAME})}
    if path == INFER_PATH:
        largest = {"max_request_bytes": policy.limits.retry_body_bytes}
        filters[_BUFFER] = typed(
            "extensions.filters.http.buffer.v3.BufferPerRoute", {"buffer": largest}
        )
    told: Table = {"service": service, "ill": dict.fromkeys(ill, True)}
    if waits(policy) and policy.retry.num_retries:
        told["attempts"] = str(ATTEMPTS)
    return {
        "typed_per_filter_config": filters,
        "response_headers_to_add": [{"header": {"key": PLACE, "value": "%UPSTREAM_HOST%"}}],
        "metadata": {"filter_metadata": {_LUA: told}},
    }


def continued(policy: TrafficPolicy) -> Table:
    """What a cluster says of instances that get nothing new: the sequences they have go on there.

    In mode `strict` nobody but the primary answers.
    """
    if not policy.affinity.sequence_header or policy.mode is Mode.STRICT:
        return {}
    return {"override_host_status": {"statuses": _ANY}}


def ill(withdrawn: Iterable[Instance], policy: TrafficPolicy) -> tuple[str, ...]:
    """Addresses, as Envoy writes them, of instances on which no sequence is continued.

    Whoever others want out of service serves on; one against which its own sidecar speaks may
    answer wrongly, or has lost its models.
    """
    if not policy.affinity.sequence_header:
        return ()
    return tuple(sorted(_written(each) for each in withdrawn if each.ill))


def _written(instance: Instance) -> str:
    host = f"[{instance.address}]" if ":" in instance.address else instance.address
    return f"{host}:{instance.port}"
