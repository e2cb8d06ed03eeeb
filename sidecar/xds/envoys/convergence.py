"""How long Envoys take to acknowledge a change. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.xds.ads.subscription import Reply


@dataclass(slots=True)
class _Round:
    started: float
    outstanding: int = 0
    confirmed_at: float | None = None


class Convergence:
    """Measures how long it takes until every Envoy that was sent a change has acknowledged it."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._rounds: dict[str, _Round] = {}

    def sent(self, reply: Reply, changed_at: float) -> None:
        """A response was sent; one without a change is ignored."""
        if reply.news:
            version = reply.snapshot.version
            self._rounds.setdefault(version, _Round(changed_at)).outstanding += 1

    def answered(self, reply: Reply, confirmed_at: float | None) -> None:
        """An Envoy acknowledged the response, or will not: it rejected it, or its stream ended.

        Call it after the responses that follow have been sent: routes may have waited for clusters.
        """
        found = self._rounds.get(reply.snapshot.version)
        if not reply.news or found is None:
            return
        found.outstanding -= 1
        if confirmed_at is not None:
            found.confirmed_at = max(confirmed_at, found.confirmed_at or confirmed_at)
        if found.outstanding <= 0:
            del self._rounds[reply.snapshot.version]
            if found.confirmed_at is not None:
                self._observe(found.confirmed_at - found.started)
