"""The lock on the role of primary: its keys in Consul's KV, and what their values say. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sidecar.consul.api import KVEntry

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a tenure ended by choice: why, when (Unix seconds), and in favour of whom.

    `order` is the id of the order that it ended for, "" for none; None: an earlier version has
    written it, which does not tell.
    """

    why: str
    at: float
    to: str = ""
    order: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The value of the lock and, as it was when the tenure began, of the epoch key.

    `since` is when the tenure began (ISO 8601), so that each has a value of its own. `priority` and
    `model_set` are the holder's. `ended` is there only after an orderly release.
    """

    instance: str
    session: str
    since: str = ""
    priority: int = 100
    model_set: str = ""
    ended: Ended | None = None


@dataclass(frozen=True, slots=True)
class ElectionLock:
    """The lock and its epoch as last read from Consul; `index` orders the readings.

    `instance` is the holder, and `last` the claim of the last one, whether it still holds or not.
    `elected_with` is the model set that the holder had when it took the lock.
    """

    session: str | None = None
    instance: str | None = None
    epoch: int = 0
    index: int = 0
    last: Claim | None = None
    elected_with: str = ""


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


def dumps(value: object) -> bytes:
    """A value of the election's keys as JSON."""
    return _adapter(type(value)).dump_json(value)


def loads(kind: type[T], text: bytes) -> T | None:
    """The value that a key holds, or None if it is somebody's garbage."""
    try:
        return _adapter(kind).validate_json(text)
    except ValidationError:
        return None


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    """What reads and writes a kind of value; making it takes long."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def read(service: str, entries: Iterable[KVEntry], index: int) -> ElectionLock:
    """The lock as the KV entries of one answer say; a foreign value names no instance.

    It has a holder only if lock and epoch name the same session: both are written by one
    transaction, so anything else is somebody's edit. Consul takes the session off the key when it
    ends, so a holder is always one whose session lives.
    """
    found = {entry.key: entry for entry in entries}
    lock, epoch = found.get(lock_key(service)), found.get(epoch_key(service))
    session = lock.session if lock else None
    claimed = loads(Claim, epoch.value) if epoch else None
    last = loads(Claim, lock.value) if lock else None
    holds = session is not None and claimed is not None and claimed.session == session
    return ElectionLock(
        session=session,
        instance=claimed.instance if claimed and holds else None,
        epoch=epoch.modify_index if epoch else 0,
        index=index,
        last=last or claimed,
        elected_with=claimed.model_set if claimed and holds else "",
    )
