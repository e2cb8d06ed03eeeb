"""Entries of a machine's journal, of systemd and of services."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

STOPPING, STOPPED, FAILED = "stopping", "stopped", "failed"
# By the message ids of systemd's catalog (`journalctl --catalog`).
_EVENTS = {
    "de5b426a63be47a7b6ac3eaac82e2f6f": STOPPING,
    "9d1aaa27d60140bd96365438aad20286": STOPPED,
    "d9b373ed55a64feb8242e02dbe79a49c": FAILED,
}


@dataclass(frozen=True)
class Journal:
    """Entries of a journal, in order."""

    entries: tuple[Mapping[str, Any], ...]

    @classmethod
    def read(cls, text: bytes) -> Self:
        """Parse the output of `journalctl --output=json`."""
        return cls(tuple(map(json.loads, text.splitlines())))

    def said(self, unit: str) -> tuple[str, ...]:
        """The lines of a service."""
        found = (each["MESSAGE"] for each in self.entries if each.get("_SYSTEMD_UNIT") == unit)
        return tuple(each for each in found if isinstance(each, str))

    def of_units(self) -> tuple[tuple[str, str], ...]:
        """STOPPING, STOPPED or FAILED, each with its unit, in order."""
        found = ((each.get("MESSAGE_ID", ""), each.get("UNIT", "")) for each in self.entries)
        return tuple((_EVENTS[what], unit) for what, unit in found if what in _EVENTS)
