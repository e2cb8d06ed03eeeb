"""The Lua filter with which Envoy continues a sequence where it began. Pure.

`sequences.lua` says what it does; docs/decisions/0057 why it does it there.
"""

from collections.abc import Iterable
from pathlib import Path

# Imported for their types, which only `@type` names.
from envoy.extensions.filters.http.header_mutation.v3 import (
    header_mutation_pb2 as _mutation,  # noqa: F401
)
from envoy.extensions.filters.http.lua.v3 import lua_pb2 as _lua  # noqa: F401

from sidecar.traffic.policy import Mode, TrafficPolicy
from sidecar.xds.catalog.catalog import Instance
from sidecar.xds.config.endpoints import Assignment
from sidecar.xds.config.filters.request_buffer import buffered
from sidecar.xds.config.methods import INFER_PATH, STREAM_PATH, AllowedPath
from sidecar.xds.config.no_healthy_upstream import ATTEMPTS, waits
from sidecar.xds.config.protojson import Table, named, typed

_LUA = "envoy.filters.http.lua"
_MUTATION = "envoy.filters.http.header_mutation"
# For the script alone: in each request, the connection it came over, even if ports are reused; in
# each response, the instance that sent it.
_CONNECTION, PLACE = "x-triton-sidecar-connection", "x-triton-sidecar-place"
_NAME = "sequences"
_SCRIPT = "\n".join(
    Path(__file__).with_name(f"{name}.lua").read_text(encoding="utf-8")
    for name in ("messages", _NAME)
)
_MARKS = {"@CONNECTION@": _CONNECTION, "@PLACE@": PLACE, "@STREAM@": STREAM_PATH}
for _mark, _value in _MARKS.items():
    _SCRIPT = _SCRIPT.replace(_mark, _value)
_OVER = {
    "header": {"key": _CONNECTION, "value": "%CONNECTION_ID%"},
    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
}
# Whatever the health of the instance that has a sequence: no other one has it.
_ANY = ["UNKNOWN", "HEALTHY", "UNHEALTHY", "DRAINING", "TIMEOUT", "DEGRADED"]


def http_filters() -> list[Table]:
    """The listener's filters, which are active only on the routes that enable them.

    They are always present: Envoy drains a listener that changes. The one of `request_buffer.py`
    comes before them.
    """
    lua = typed(
        "extensions.filters.http.lua.v3.Lua",
        {"source_codes": {_NAME: {"inline_string": _SCRIPT}}, "stat_prefix": _NAME},
    )
    mutation = typed("extensions.filters.http.header_mutation.v3.HeaderMutation", {})
    found = (named(_MUTATION, mutation), named(_LUA, lua))
    return [{**each, "disabled": True} for each in found]


def route_config(
    allowed: AllowedPath, service: str, policy: TrafficPolicy, ill: Iterable[str], since: str
) -> Table:
    """A route's fields for requests of sequences, next to its destination.

    Args:
        allowed: what the route matches.
        service: whose sequences they are; another one's may have the same model and id.
        policy: of the service.
        ill: addresses of instances that continue no sequence.
        since: the version of the policies; a sequence from another one is not continued.
    """
    path = allowed.match.get("path")
    if path not in (INFER_PATH, STREAM_PATH):
        return {}
    filters = {_LUA: typed("extensions.filters.http.lua.v3.LuaPerRoute", {"name": _NAME})}
    if path == INFER_PATH:
        filters |= buffered(policy)
        filters[_MUTATION] = typed(
            "extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
            {"mutations": {"request_mutations": [{"append": _OVER}]}},
        )
    fields: Table = {
        "service": service,
        "header": policy.affinity.sequence_header,
        "since": since,
        "ill": dict.fromkeys(ill, True),
    }
    if waits(policy) and policy.retry.num_retries:
        fields["attempts"] = str(ATTEMPTS)
    return {
        "typed_per_filter_config": filters,
        "response_headers_to_add": [{"header": {"key": PLACE, "value": "%UPSTREAM_HOST%"}}],
        "metadata": {"filter_metadata": {_LUA: fields}},
    }


def lb_config(policy: TrafficPolicy) -> Table:
    """A cluster's setting that lets withdrawn instances continue the sequences they have.

    In mode `strict` only the primary answers.
    """
    if not policy.affinity.sequence_header or policy.mode is Mode.STRICT:
        return {}
    return {"override_host_status": {"statuses": _ANY}}


def ill(assignment: Assignment, policy: TrafficPolicy) -> tuple[str, ...]:
    """Addresses, in Envoy's notation, of instances that continue no sequence.

    With a model after a space, if they continue none of that model. An instance that others want
    out of service keeps serving; one whose own sidecar reports a fault may answer wrongly, or has
    lost its models.
    """
    if not policy.affinity.sequence_header:
        return ()
    whole = {_written(each) for each in assignment.withdrawn if each.ill}
    models = {
        f"{_written(each)} {model}" for each in assignment.listed for model, _ in each.unusable
    }
    return tuple(sorted(whole | models if policy.by_model else whole))


def _written(instance: Instance) -> str:
    host = f"[{instance.address}]" if ":" in instance.address else instance.address
    return f"{host}:{instance.port}"
