"""Finds the models because of which Triton reports itself not ready. Pure."""

from collections.abc import Collection, Iterable

from sidecar.triton.api import IndexEntry

_READY, _NEVER_LOADED = "READY", ""
_UNAVAILABLE = "UNAVAILABLE"


def unserved_not_ready(index: Iterable[IndexEntry], served: Collection[str]) -> str:
    """The models because of which Triton is not ready, if none of them is served; else "".

    A served model is to blame if it is loading or unloading, or has no ready version. If no model
    is to blame, the server is.
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
