"""Whose fault it is that Triton calls itself not ready. Pure."""

from collections.abc import Collection, Iterable

from sidecar.triton.api import IndexEntry

_READY, _NEVER_LOADED = "READY", ""
_UNAVAILABLE = "UNAVAILABLE"


def unserved_not_ready(index: Iterable[IndexEntry], served: Collection[str]) -> str:
    """The models for which alone Triton is not ready, if none of them is served; else nothing.

    One that is served is to blame if it is being loaded or unloaded, or has no version that is
    ready. If there is no model to blame at all, it is the server.
    """
    states: dict[str, set[str]] = {}
    for entry in index:
        states.setdefault(entry.name, set()).add(entry.state)
    troubled = {name: found for name, found in states.items() if found - {_READY, _NEVER_LOADED}}
    to_blame = (
        name
        for name, found in troubled.items()
        if name in served and (found - {_READY, _UNAVAILABLE, _NEVER_LOADED} or _READY not in found)
    )
    return "" if any(to_blame) else ", ".join(sorted(troubled))
