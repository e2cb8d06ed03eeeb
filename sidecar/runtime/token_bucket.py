"""How often something may be done: a token bucket. Pure."""

from dataclasses import dataclass, replace

# Of a permit. A pause shorter than the clock can tell would never end.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A bucket of permits: it holds `burst` of them, and gets `rate` new ones a second.

    `level` were in it at the time `at` (monotonic seconds).
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
        """The bucket with one permit less. What is missing is owed."""
        return replace(self, level=self._level(now) - 1.0, at=now)

    def _level(self, now: float) -> float:
        return min(self.burst, self.level + max(0.0, now - self.at) * self.rate)
