"""The filters with which Envoy sends a request to instances that serve its model. Pure.

`frames.lua` and `models.lua` say what they do; docs/decisions/0069 why it is done there.
"""

from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Any

# Imported for their types, which only `@type` names.
from envoy.extensions.filters.http.grpc_field_extraction.v3 import (
    config_pb2 as _extraction,  # noqa: F401
)
from envoy.extensions.filters.http.lua.v3 import lua_pb2 as _lua  # noqa: F401
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pb2 import FileDescriptorSet as FileSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from sidecar.traffic.policy import TrafficPolicy
from sidecar.xds.catalog.models import ModelTable
from sidecar.xds.config.filters.request_buffer import buffered
from sidecar.xds.config.methods import INFER_PATH, STREAM_PATH, TRITON, AllowedPath
from sidecar.xds.config.protojson import Table, named, typed

# The response header that names the model which answered.
ANSWERED_BY = "x-triton-sidecar-model"
# The metadata with which Envoy's load balancer compares requests and endpoints.
BALANCER, KEY = "envoy.lb", "model"
_FRAMES, _READER, _NAME = "model_frames", "model_reader", "models"
_RULE = "model:"  # before a name in a route's metadata
# The methods whose requests name a model.
_PATHS = frozenset(
    {
        *(INFER_PATH, STREAM_PATH),
        *(TRITON + each for each in ("ModelReady", "ModelMetadata", "ModelConfig")),
        TRITON + "ModelStatistics",
    }
)
_FIELD = "model_name"


def http_filters(buffer: Table) -> list[Table]:
    """The listener's filters, which are active only on the routes that enable them.

    They are always present: Envoy drains a listener that changes. `buffer` is the filter that holds
    a unary request back until it is complete.
    """
    reader = typed(
        "extensions.filters.http.grpc_field_extraction.v3.GrpcFieldExtractionConfig",
        {
            "descriptor_set": {"inline_bytes": b64encode(_descriptors()).decode()},
            "extractions_by_method": {
                STREAM_PATH[1:].replace("/", "."): {"request_field_extractions": {_FIELD: {}}}
            },
        },
    )
    own = (_lua_filter(_FRAMES, "frames"), named(_READER, reader), _lua_filter(_NAME, "models"))
    frames, *others = [{**each, "disabled": True} for each in own]
    return [frames, buffer, *others]


def route_config(
    allowed: AllowedPath, service: str, policy: TrafficPolicy, models: ModelTable | None
) -> Table:
    """A route's fields that send its requests to instances by model; empty for other methods.

    Args:
        allowed: what the route matches.
        service: whose models they are.
        policy: of the service.
        models: of the service; None if its requests are not routed by model.
    """
    path = allowed.match.get("path")
    if models is None or path not in _PATHS:
        return {}
    aliases = {_RULE + name: route.to for name, route in models.routes if route.to}
    fields: Table = {"service": service, "open": models.open}
    for name, route in models.routes:
        shown = {"to": route.to, "why": route.why}
        fields[_RULE + name] = {key: text for key, text in shown.items() if text} or True
    frames = {"aliases": True, **aliases} if aliases else {}
    streams = path == STREAM_PATH
    scripts = (_FRAMES, _NAME) if aliases or streams else (_NAME,)
    reader = {_READER: typed("config.route.v3.FilterConfig", {"config": {}})}
    filters = {
        **(reader if streams else buffered(policy)),
        **{name: _lua_for_route(name) for name in scripts},
    }
    answered_by = {"key": ANSWERED_BY, "value": f"%DYNAMIC_METADATA({BALANCER}:{KEY})%"}
    return {
        "typed_per_filter_config": filters,
        "metadata": {"filter_metadata": {_NAME: fields, _FRAMES: frames}},
        "response_headers_to_add": [
            {"header": answered_by, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        ],
    }


def model_of(request: bytes) -> str:
    """The model that a ModelInferRequest names; empty if it cannot be read."""
    try:
        return str(_infer_request().FromString(request).model_name)
    except DecodeError:
        return ""


@cache
def _infer_request() -> Any:
    pool = DescriptorPool()
    for file in FileSet.FromString(_descriptors()).file:
        pool.Add(file)  # type: ignore[no-untyped-call]
    found = pool.FindMessageTypeByName("inference.ModelInferRequest")  # type: ignore[no-untyped-call]
    return GetMessageClass(found)


def lb_metadata(models: tuple[str, ...]) -> Table:
    """The metadata of an endpoint that is listed under these models."""
    if not models:
        return {}
    return {"metadata": {"filter_metadata": {BALANCER: {KEY: list(models)}}}}


def _lua_filter(name: str, script: str) -> Table:
    text = "\n".join(
        Path(__file__).with_name(f"{each}.lua").read_text(encoding="utf-8")
        for each in ("messages", script)
    )
    text = text.replace("@STREAM@", STREAM_PATH)
    body = {"source_codes": {name: {"inline_string": text}}, "stat_prefix": name}
    return named(name, typed("extensions.filters.http.lua.v3.Lua", body))


def _lua_for_route(name: str) -> Table:
    return typed("extensions.filters.http.lua.v3.LuaPerRoute", {"name": name})


def _descriptors() -> bytes:
    """The one method whose requests are read by it, with the one field that is read."""
    file = FileDescriptorProto(name="models.proto", package="inference", syntax="proto3")
    file.message_type.add(name="Answer")
    file.message_type.add(name="ModelInferRequest").field.add(
        name=_FIELD,
        number=1,
        type=FieldDescriptorProto.TYPE_STRING,
        label=FieldDescriptorProto.LABEL_OPTIONAL,
    )
    file.service.add(name="GRPCInferenceService").method.add(
        name=STREAM_PATH.removeprefix(TRITON),
        input_type=".inference.ModelInferRequest",
        output_type=".inference.Answer",
        client_streaming=True,
        server_streaming=True,
    )
    return FileSet(file=[file]).SerializeToString(deterministic=True)
