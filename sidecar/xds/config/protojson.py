"""Envoy's configuration in the JSON form of its documentation, checked against its schema. Pure."""

from collections.abc import Iterable
from typing import Any

from google.protobuf import any_pb2, descriptor_pool, message_factory
from google.protobuf.json_format import ParseDict

# Imported for its type, which only `@type` names.
from xds.type.v3 import typed_struct_pb2 as _struct  # noqa: F401

_TYPES = "type.googleapis.com/envoy."
ADS = {"ads": {}, "resource_api_version": "V3"}
Table = dict[str, Any]


def typed(name: str, body: Table) -> Table:
    """An extension's configuration, by its message's name."""
    return {"@type": _TYPES + name, **body}


def typed_struct(name: str, body: Table) -> Table:
    """Like `typed`, for fields that Envoy has but its published schema still lacks.

    Only Envoy checks them: `python -m tests.checks.validate_envoy`.
    """
    wrapper = "type.googleapis.com/xds.type.v3.TypedStruct"
    return {"@type": wrapper, "type_url": _TYPES + name, "value": body}


def named(name: str, config: Table) -> Table:
    """An extension by its name."""
    return {"name": name, "typed_config": config}


def merged(*tables: Table) -> Table:
    """All keys of several tables: objects merged, lists joined; of other values the last one."""
    found: Table = {}
    for table in tables:
        for key, value in table.items():
            known = found.get(key)
            if isinstance(known, dict) and isinstance(value, dict):
                value = merged(known, value)
            elif isinstance(known, list) and isinstance(value, list):
                value = known + value
            found[key] = value
    return found


def seconds(duration: float) -> str:
    """A protobuf duration in JSON, to the microsecond."""
    return f"{duration:.6f}s"


def address(host: str, port: int) -> Table:
    """A TCP address."""
    return {"socket_address": {"address": host, "port_value": port}}


def parse(message: Any, body: Table) -> Any:
    """The message, filled in. Equal tables give equal bytes, in every process."""
    return _settle(ParseDict(body, message))


def _settle(message: Any) -> Any:
    """Reserialise each Any: `ParseDict` takes map keys in any order."""
    for field, found in message.ListFields():
        if field.message_type is not None:
            for each in _messages(field, found):
                _settle(each)
    if isinstance(message, any_pb2.Any) and message.type_url:
        pool = descriptor_pool.Default()  # type: ignore[no-untyped-call]
        found = pool.FindMessageTypeByName(message.TypeName())
        packed = message_factory.GetMessageClass(found).FromString(message.value)
        message.value = _settle(packed).SerializeToString(deterministic=True)
    return message


def _messages(field: Any, found: Any) -> Iterable[Any]:
    """The messages in a field."""
    if field.message_type.GetOptions().map_entry:
        of_messages = field.message_type.fields_by_name["value"].message_type is not None
        return found.values() if of_messages else ()
    return found if field.is_repeated else (found,)
