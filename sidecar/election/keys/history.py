"""The history of primaries in Consul's KV: which instance, since when and why. Pure.

The transaction that takes the lock also writes the entry, so there is exactly one for each tenure;
the key's CreateIndex is the tenure's epoch. What the change cost is added later.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from sidecar.consul.api import Delete, KVEntry
from sidecar.election.keys import lock

KEPT = 500
# Consul allows 64 operations in a transaction.
_AT_ONCE = 60


@dataclass(frozen=True, slots=True)
class Entry:
    """One change of the role.

    `at` is when the lock was taken (ISO 8601, UTC), `by` the previous holder, or "" for none.
    `without` is how many seconds the lock was free, as far as the successor saw. `requests` and
    `failed` count client requests and their failures over `over` seconds, as counted by Envoys;
    None if nothing was counted.
    """

    at: str
    to: str
    cause: str
    by: str = ""
    model_set: str = ""
    without: float | None = None
    requests: int | None = None
    failed: int | None = None
    over: float | None = None
    epoch: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class DrillEntry:
    """A drill: who caused which fault to which instance, and what became of it.

    `began` and `ended` are ISO 8601 in UTC, `ended` is empty while it runs. `outcome` is `done`,
    `aborted` or `refused`, and `code` says why. Earlier versions ignore the entry, because it has
    no field that every `Entry` has.
    """

    drill: str
    scenario: str
    fault: str
    victim: str
    by: str
    began: str
    ended: str = ""
    outcome: str = ""
    code: str = ""


def prefix(service: str) -> str:
    """The folder of a service's history."""
    return f"triton-sidecar/{service}/history/"


def key(service: str, entry: Entry) -> str:
    """The entry's key: sorts by time, unique for each tenure."""
    return f"{prefix(service)}{entry.at}-{entry.to}"


def read(service: str, entries: Iterable[KVEntry]) -> tuple[Entry, ...]:
    """All entries, oldest first; unreadable ones are left out."""
    start = prefix(service)
    named = (found for found in entries if found.key.startswith(start))
    parsed = ((lock.loads(Entry, found.value), found.create_index) for found in named)
    known = [replace(entry, epoch=index) for entry, index in parsed if entry]
    return tuple(sorted(known, key=lambda entry: entry.epoch))


def drill_key(service: str, drill: DrillEntry) -> str:
    """The drill's key: sorts by time, unique for each drill."""
    return f"{prefix(service)}{drill.began}-drill-{drill.drill}"


def read_drills(service: str, entries: Iterable[KVEntry]) -> tuple[DrillEntry, ...]:
    """All drills, oldest first; what is unreadable or no drill is left out."""
    start = prefix(service)
    named = (found for found in entries if found.key.startswith(start))
    parsed = (lock.loads(DrillEntry, found.value) for found in named)
    return tuple(sorted(filter(None, parsed), key=lambda drill: drill.began))


def surplus(entries: Sequence[KVEntry], kept: int = KEPT) -> tuple[Delete, ...]:
    """The next deletions that bring the history down to the newest `kept` entries."""
    oldest = sorted(entries, key=lambda found: found.create_index)
    gone = oldest[: max(0, len(oldest) - kept)][:_AT_ONCE]
    return tuple(Delete(found.key, found.modify_index) for found in gone)
