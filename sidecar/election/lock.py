"""What the election's two keys in Consul's KV hold, and how to read them. Pure."""

import json
from collections.abc import Iterable

from sidecar.consul_api import KVEntry
from sidecar.election.decision import Lock


def prefix(service: str) -> str:
    """The folder of a service's election."""
    return f"triton-sidecar/{service}/election/"


def lock_key(service: str) -> str:
    """The key that the primary's session locks."""
    return prefix(service) + "lock"


def epoch_key(service: str) -> str:
    """The key whose ModifyIndex is the epoch: only an acquisition writes it.

    The lock's own LockIndex would not do: a plain write to the key resets it.
    """
    return prefix(service) + "epoch"


def claim(instance: str, session: str, since: str) -> bytes:
    """The value of both keys; `since` is when the session began, so that each has its own."""
    return json.dumps({"instance": instance, "session": session, "since": since}).encode()


def read(service: str, entries: Iterable[KVEntry], index: int) -> Lock:
    """The lock as the KV entries of one answer say; a foreign value names no instance.

    It has a holder only if lock and epoch name the same session: both are written by one
    transaction, so anything else is somebody's edit.
    """
    found = {entry.key: entry for entry in entries}
    lock, epoch = found.get(lock_key(service)), found.get(epoch_key(service))
    session = lock.session if lock else None
    claimed = _parse(epoch.value) if epoch else {}
    holder = claimed.get("instance") if session and claimed.get("session") == session else None
    return Lock(session, holder, epoch.modify_index if epoch else 0, index)


def _parse(value: bytes) -> dict[str, str]:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: text for key, text in found.items() if isinstance(text, str)}
