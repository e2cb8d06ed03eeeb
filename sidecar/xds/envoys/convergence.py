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
    """Measures how long it takes until every Envoy that was told of a change has confirmed it."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._rounds: dict[str, _Round] = {}

    def sent(self, reply: Reply, changed_at: float) -> None:
        """A reply went out; one without news is of no interest."""
        if reply.news:
            version = reply.snapshot.version
            self._rounds.setdefault(version, _Round(changed_at)).outstanding += 1

    def answered(self, reply: Reply, confirmed_at: float | None) -> None:
        """An Envoy confirmed the reply, or will not: it refused, or its stream ended.

        To be called when what follows from it has been sent: routes may have waited for clusters.
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
