"""A token bucket, which limits how often something is done. Pure."""

from dataclasses import dataclass, replace

# Of a permit. A pause shorter than the clock's resolution would never end.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A bucket of up to `burst` permits, which refills at `rate` permits a second.

    It held `level` permits at the time `at` (monotonic seconds).
    """

    rate: float
    burst: float
    level: float
    at: float = 0.0

    def pause(self, now: float) -> float:
        """Seconds until there is a permit; 0 if there is one."""
        missing = 1.0 - self._level(now)
        return missing / self.rate if missing > _ROUNDING else 0.0

    def take(self, now: float) -> "TokenBucket":
        """The bucket with one permit less; the level may become negative."""
        return replace(self, level=self._level(now) - 1.0, at=now)

    def _level(self, now: float) -> float:
        return min(self.burst, self.level + max(0.0, now - self.at) * self.rate)
