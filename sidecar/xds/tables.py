"""Envoy's configuration as its documentation writes it: nested tables, checked by its schema."""

from typing import Any

from google.protobuf.json_format import ParseDict

_TYPES = "type.googleapis.com/envoy."
ADS = {"ads": {}, "resource_api_version": "V3"}
Table = dict[str, Any]


def typed(name: str, body: Table) -> Table:
    """An extension's configuration, by the name of its message."""
    return {"@type": _TYPES + name, **body}


def named(name: str, config: Table) -> Table:
    """An extension by its own name."""
    return {"name": name, "typed_config": config}


def seconds(duration: float) -> str:
    """A protobuf duration in JSON, to the microsecond."""
    return f"{duration:.6f}s"


def address(host: str, port: int) -> Table:
    """An address of TCP."""
    return {"socket_address": {"address": host, "port_value": port}}


def parse(message: Any, body: Table) -> Any:
    """The message, filled."""
    return ParseDict(body, message)
