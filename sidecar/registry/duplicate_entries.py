"""Which entry of the catalog counts for an instance that has several. Pure."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sidecar.registry import checks

if TYPE_CHECKING:
    from sidecar.consul.api import ServiceEntry

_STATUSES = ("passing", "warning", "critical")


def fold(entries: "Iterable[ServiceEntry]") -> "tuple[ServiceEntry, ...]":
    """One entry for each instance, sorted by id.

    A node that was renamed, or went without leaving, keeps its entries in the catalog for three
    days, beside those of the node on which their instances are now. Such ghosts do not count.
    """
    found: dict[str, ServiceEntry] = {}
    for entry in sorted(entries, key=rank):
        found.setdefault(entry.id, entry)
    return tuple(found[name] for name in sorted(found))


def rank(entry: "ServiceEntry") -> tuple[bool, int, str]:
    """Of entries with one id the one with the least is believed.

    That is one on a node whose agent is there, then the healthiest, then any, but always the same.
    """
    agent_gone = any(check.id == checks.NODE and _severity(check.status) for check in entry.checks)
    return agent_gone, _severity(entry.status), entry.node


def _severity(status: str) -> int:
    return _STATUSES.index(status) if status in _STATUSES else len(_STATUSES)
