"""Requests that went down with two instances, by the fingerprint of what they ask."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

Endpoint = tuple[str, int]
# Instances that a request may take down.
BOUND = 2
# More than are in flight at once on an instance that many use.
MOST = 512


@dataclass(frozen=True, slots=True)
class Suspect:
    """One of them: where it was, until when it is watched (monotonic seconds), and what is proven.

    One that is `guilty` went down with an instance on which it was alone.
    """

    endpoints: frozenset[Endpoint]
    until: float
    guilty: bool = False


class Suspects:
    """All of them, each for `lifetime` seconds from the last that was heard of it."""

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._found: dict[str, Suspect] = {}

    @property
    def prints(self) -> frozenset[str]:
        """Their fingerprints."""
        return frozenset(self._found)

    def find(self, fingerprint: str) -> Suspect | None:
        """What is known of a request."""
        return self._found.get(fingerprint)

    def accuse(self, fingerprint: str, endpoints: Iterable[Endpoint], now: float) -> Suspect | None:
        """A request was with these when they went down; None where nothing speaks against it.

        Raises:
            OverflowError: there are too many others.
        """
        known, where = self._found.get(fingerprint), frozenset(endpoints)
        if known is None and where:
            if len(self._found) >= MOST:
                raise OverflowError(f"{MOST} requests are suspects")
            known = self._found[fingerprint] = Suspect(where, now + self._lifetime)
        return known

    def convict(self, fingerprint: str, now: float) -> None:
        """It was alone on an instance that went down."""
        if known := self._found.get(fingerprint):
            self._found[fingerprint] = Suspect(known.endpoints, now + self._lifetime, guilty=True)

    def acquit(self, fingerprint: str) -> None:
        """It was answered, where it had been when the instance went down."""
        self._found.pop(fingerprint, None)

    def forget(self, now: float, waiting: Collection[str] = ()) -> None:
        """Let go of those whose time is over, but for those of whom somebody waits to hear."""
        self._found = {
            name: each for name, each in self._found.items() if each.until > now or name in waiting
        }
