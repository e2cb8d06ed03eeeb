"""The lock on the role of primary: its keys in Consul's KV, and their values. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sidecar.consul.api import KVEntry

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a tenure ended by choice: why, when (Unix seconds), and in favour of which instance.

    `order` is the id of the order that ended it, "" for none, None if an earlier version wrote the
    value, without the id.
    """

    why: str
    at: float
    to: str = ""
    order: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The value of the lock and, as it was when the tenure began, of the epoch key.

    `since` is when the tenure began (ISO 8601), which makes each tenure's value unique. `priority`
    and `model_set` are the holder's. `ended` is present only after a graceful release.
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

    `instance` is the holder; `last` is the last holder's claim, whether or not it still holds.
    `elected_with` is the holder's model set when it took the lock.
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

    The lock's own LockIndex is unsuitable: a plain write to the key resets it.
    """
    return prefix(service) + "epoch"


def dumps(value: object) -> bytes:
    """The JSON of a value for one of the election's keys."""
    return _adapter(type(value)).dump_json(value)


def loads(kind: type[T], text: bytes) -> T | None:
    """The value in a key, or None if it is unreadable."""
    try:
        return _adapter(kind).validate_json(text)
    except ValidationError:
        return None


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    """The cached adapter that reads and writes a kind of value; it is slow to build."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def read(service: str, entries: Iterable[KVEntry], index: int) -> ElectionLock:
    """The lock according to the KV entries of one answer; an unreadable value names no instance.

    There is a holder only if lock and epoch name the same session: one transaction writes both, so
    anything else was edited by hand. Consul removes the session from the key when it ends, so a
    holder's session is always alive.
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
