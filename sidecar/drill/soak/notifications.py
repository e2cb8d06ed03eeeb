"""Whether the notifications of a soak are well-formed, and say who is primary. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sidecar.drill.record import Violation
from sidecar.drill.soak.tenures import Tenure
from sidecar.notify.documents import VERSION

DOCUMENTS: Final = "/documents"
ALERTS: Final = "/api/v2/alerts"
_SHOWN: Final = 200  # characters of one that is malformed
_HEAD: Final = {"version": int, "event": str, "at": str, "service": str, "instance": str}
# What docs/notifications.md promises of each event, besides the head.
_FIELDS: Final[Mapping[str, Mapping[str, type]]] = {
    "role_change": {"before": str, "after": str, "epoch": int, "why": str},
    "verdict_change": {
        **dict.fromkeys(("before", "after", "reason", "detail"), str),
        "serving": bool,
    },
    "drill": dict.fromkeys(("phase", "scenario", "fault", "by", "code", "why"), str),
}
_LABELS: Final = ("alertname", "service", "instance", "severity")
_ALERTS: Final = ("TritonRoleChanged", "TritonNotServing", "TritonDrill")


@dataclass(frozen=True, slots=True)
class Received:
    """A request that arrived at the receiver."""

    path: str
    body: str


def claims(received: Sequence[Received]) -> tuple[Tenure, ...]:
    """Which instance said that it is primary, and in which epoch."""
    found = (_parsed(each.body) for each in received if each.path == DOCUMENTS)
    return tuple(
        Tenure(document["epoch"], document["instance"])
        for document in found
        if _is_document(document) and document["event"] == "role_change" and document["epoch"]
    )


def judged(received: Sequence[Received], primary: Tenure | None) -> Iterator[Violation]:
    """What is wrong with the notifications.

    Args:
        received: all of them.
        primary: the last one that took the role, if any did while the receiver ran.
    """
    malformed = [each for each in received if not _well_formed(each)]
    if malformed:
        found = f"{len(malformed)} of {len(received)}, such as {malformed[0].body[:_SHOWN]}"
        yield Violation("malformed_notifications", "none", found)
    if primary is None:
        return
    if primary not in claims(received):
        newest = max(claims(received), key=lambda each: each.epoch, default=None)
        expected = f"a document of {primary.instance} with epoch {primary.epoch}"
        yield Violation("lost_notifications", expected, f"the newest is {newest or 'none'}")
    if not any(_announces(each, primary) for each in received):
        expected = f"an alert about {primary.instance} as primary"
        yield Violation("lost_notifications", expected, "none")


def _announces(received: Received, primary: Tenure) -> bool:
    if received.path != ALERTS or not _well_formed(received):
        return False
    return any(
        alert["labels"].get("role") == "primary"
        and alert["labels"]["instance"] == primary.instance
        and alert["annotations"].get("epoch") == str(primary.epoch)
        for alert in _parsed(received.body)
    )


def _well_formed(received: Received) -> bool:
    content = _parsed(received.body)
    if received.path == DOCUMENTS:
        return _is_document(content)
    alerts = isinstance(content, list) and bool(content) and all(map(_is_alert, content))
    return received.path == ALERTS and alerts


def _parsed(body: str) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _is_document(content: Any) -> bool:
    if not _has(content, _HEAD) or content["version"] != VERSION:
        return False
    fields = _FIELDS.get(content["event"])
    return fields is not None and _has(content, fields)


def _is_alert(content: Any) -> bool:
    if not _has(content, {"labels": dict, "annotations": dict, "startsAt": str, "endsAt": str}):
        return False
    labels, notes = content["labels"], content["annotations"]
    described = _has(notes, {"summary": str, "description": str})
    return (
        described and _has(labels, dict.fromkeys(_LABELS, str)) and (labels["alertname"] in _ALERTS)
    )


def _has(content: Any, fields: Mapping[str, type]) -> bool:
    return isinstance(content, dict) and all(
        isinstance(content.get(name), kind) for name, kind in fields.items()
    )
