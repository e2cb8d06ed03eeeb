"""The filters with which Envoy sends a request to instances that serve its model. Pure.

`models.lua` says what they do; docs/decisions/0069 why it is done there.
"""

from base64 import b64encode
from pathlib import Path

# Imported for their types, which only `@type` names.
from envoy.extensions.filters.http.grpc_field_extraction.v3 import (
    config_pb2 as _extraction,  # noqa: F401
)
from envoy.extensions.filters.http.lua.v3 import lua_pb2 as _lua  # noqa: F401
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pb2 import FileDescriptorSet as FileSet

from sidecar.xds.config.methods import INFER_PATH, STREAM_PATH, TRITON, AllowedPath
from sidecar.xds.config.models import BALANCER, KEY, ModelTable
from sidecar.xds.config.protojson import Table, named, typed

# The response header that names the model which answered.
ANSWERED_BY = "x-triton-sidecar-model"
_READER, _NAME = "model_reader", "models"
# The field of the first message that names a model, by path.
_FIELDS = {
    **dict.fromkeys((INFER_PATH, STREAM_PATH), "model_name"),
    **dict.fromkeys(
        (TRITON + each for each in ("ModelReady", "ModelMetadata", "ModelConfig")), "name"
    ),
    TRITON + "ModelStatistics": "name",
}
_SCRIPT = "\n".join(
    Path(__file__).with_name(f"{name}.lua").read_text(encoding="utf-8")
    for name in ("messages", _NAME)
).replace("@STREAM@", STREAM_PATH)


def http_filters() -> list[Table]:
    """The listener's filters, which are active only on the routes that enable them.

    They are always present: Envoy drains a listener that changes.
    """
    reader = typed(
        "extensions.filters.http.grpc_field_extraction.v3.GrpcFieldExtractionConfig",
        {
            "descriptor_set": {"inline_bytes": b64encode(_descriptors()).decode()},
            "extractions_by_method": {
                path[1:].replace("/", "."): {"request_field_extractions": {field: {}}}
                for path, field in _FIELDS.items()
            },
        },
    )
    lua = typed(
        "extensions.filters.http.lua.v3.Lua",
        {"source_codes": {_NAME: {"inline_string": _SCRIPT}}, "stat_prefix": _NAME},
    )
    found = (named(_READER, reader), named(_NAME, lua))
    return [{**each, "disabled": True} for each in found]


def route_config(allowed: AllowedPath, service: str, models: ModelTable | None) -> Table:
    """A route's fields that send its requests to instances by model; empty for other methods.

    Args:
        allowed: what the route matches.
        service: whose models they are.
        models: of the service; None if its requests are not routed by model.
    """
    if models is None or allowed.match.get("path") not in _FIELDS:
        return {}
    fields: Table = {"service": service, "open": models.open, "renames": models.renames}
    for name, route in models.routes:
        shown = {"to": route.to, "why": route.why}
        fields[f"model:{name}"] = {key: text for key, text in shown.items() if text} or True
    answered_by = {"key": ANSWERED_BY, "value": f"%DYNAMIC_METADATA({BALANCER}:{KEY})%"}
    return {
        "typed_per_filter_config": {
            _READER: typed("config.route.v3.FilterConfig", {"config": {}}),
            _NAME: typed("extensions.filters.http.lua.v3.LuaPerRoute", {"name": _NAME}),
        },
        "metadata": {"filter_metadata": {_NAME: fields}},
        "response_headers_to_add": [
            {"header": answered_by, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        ],
    }


def _descriptors() -> bytes:
    """The methods of Triton's service, with the one field of their requests that is read."""
    file = FileDescriptorProto(name="models.proto", package="inference", syntax="proto3")
    file.message_type.add(name="Answer")
    service = file.service.add(name="GRPCInferenceService")
    for path, field in _FIELDS.items():
        method = path.removeprefix(TRITON)
        file.message_type.add(name=f"{method}Request").field.add(
            name=field,
            number=1,
            type=FieldDescriptorProto.TYPE_STRING,
            label=FieldDescriptorProto.LABEL_OPTIONAL,
        )
        service.method.add(
            name=method,
            input_type=f".inference.{method}Request",
            output_type=".inference.Answer",
            client_streaming=path == STREAM_PATH,
            server_streaming=path == STREAM_PATH,
        )
    return FileSet(file=[file]).SerializeToString(deterministic=True)
