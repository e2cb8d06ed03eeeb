"""Consul's JSON as values of `consul.api`. Pure."""

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

from sidecar.consul.api import Check, KVEntry, ServiceEntry


def _check(found: Mapping[str, Any]) -> Check:
    return Check(
        id=found["CheckID"],
        name=found["Name"],
        status=found["Status"],
        output=found["Output"],
        service_id=found["ServiceID"],
        notes=found.get("Notes") or "",
    )


def parse_checks(found: Iterable[Mapping[str, Any]]) -> tuple[Check, ...]:
    """Checks, sorted by id."""
    return tuple(sorted(map(_check, found), key=lambda check: check.id))


# What separates two entries of `health/service`: the end of one, the start of the next.
_END, _BEGIN = b"}", b'{"Node":{'


def parse_health_entries(
    content: bytes, known: Mapping[bytes, ServiceEntry]
) -> list[tuple[bytes, ServiceEntry]]:
    """The entries of a `health/service` response with their texts; `known` ones are not reparsed.

    The text is split without parsing: no JSON string can contain the separator, since its quotes
    would be escaped. If it occurs deeper than between two entries, the pieces around it are not
    JSON, and the response is parsed as a whole.
    """
    begin, end = b"[" + _BEGIN, _END + b"]"
    if content.startswith(begin) and content.endswith(end):
        parts = content[len(begin) : -len(end)].split(_END + b"," + _BEGIN)
        texts = [_BEGIN + part + _END for part in parts]
        try:
            return [(text, known.get(text) or parse_health_entry(_loads(text))) for text in texts]
        except ValueError:
            pass
    return [(b"", parse_health_entry(found)) for found in _loads(content)]


def _loads(text: bytes) -> Any:
    return json.loads(text.decode(errors="replace"))


def parse_health_entry(found: Mapping[str, Any]) -> ServiceEntry:
    """One entry of `health/service`."""
    return parse_service_entry(
        found["Node"]["Node"], found["Service"], found["Checks"], found["Node"]
    )


def parse_service_entry(
    node: str,
    service: Mapping[str, Any],
    checks: Iterable[Mapping[str, Any]],
    fallback: Mapping[str, Any],
) -> ServiceEntry:
    """A service with its checks; without an address it has that of its node, `fallback`."""
    weights = service.get("Weights") or {}
    return ServiceEntry(
        node=node,
        id=service["ID"],
        name=service["Service"],
        address=service["Address"] or fallback.get("Address", ""),
        port=service["Port"],
        tags=tuple(service["Tags"] or ()),
        meta=service.get("Meta") or {},
        weight_passing=weights.get("Passing", 1),
        weight_warning=weights.get("Warning", 1),
        checks=parse_checks(checks),
        node_meta=fallback.get("Meta") or {},
    )


def parse_kv_entry(found: Mapping[str, Any]) -> KVEntry:
    """One key as `kv` shows it."""
    return KVEntry(
        key=found["Key"],
        value=base64.b64decode(found["Value"] or ""),
        session=found.get("Session"),
        modify_index=found["ModifyIndex"],
        lock_index=found["LockIndex"],
        create_index=found["CreateIndex"],
    )
