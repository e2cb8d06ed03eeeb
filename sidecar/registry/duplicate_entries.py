"""The choice of the catalog entry that counts for an instance with several. Pure."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sidecar.registry import checks

if TYPE_CHECKING:
    from sidecar.consul.api import ServiceEntry

_STATUSES = ("passing", "warning", "critical")


def fold(entries: "Iterable[ServiceEntry]") -> "tuple[ServiceEntry, ...]":
    """One entry for each instance, sorted by id.

    A node that was renamed, or vanished without leaving, keeps its entries in the catalog for three
    days, alongside those of the instances' present node. Such stale entries do not count.
    """
    found: dict[str, ServiceEntry] = {}
    for entry in sorted(entries, key=rank):
        found.setdefault(entry.id, entry)
    return tuple(found[name] for name in sorted(found))


def rank(entry: "ServiceEntry") -> tuple[bool, int, str]:
    """A sort key: of several entries with one id, the first counts.

    That is an entry on a node whose agent is alive, then the healthiest, then by the node's name.
    """
    agent_gone = any(check.id == checks.NODE and _severity(check.status) for check in entry.checks)
    return agent_gone, _severity(entry.status), entry.node


def _severity(status: str) -> int:
    return _STATUSES.index(status) if status in _STATUSES else len(_STATUSES)
