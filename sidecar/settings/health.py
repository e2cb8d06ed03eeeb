"""How a Triton is probed, and what decides the verdict."""

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, model_validator

from sidecar.settings.values import Duration, Table

Percent = Annotated[int, Field(ge=1, le=100)]
Strain = Annotated[float, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds between two looks; `canary_floor` is that of canaries beside successful traffic."""

    server: float
    model: float
    canary: float
    canary_floor: float
    statistics: float


class HealthSettings(Table):
    """How often to look, how long to wait, and how many findings decide."""

    # Between two looks of a layer, unless it has an interval of its own; and while its findings
    # disagree with its level, which settles it soon in either direction.
    interval: Duration = 1.0
    fast_interval: Duration = 0.1
    server_interval: Duration | None = None
    model_interval: Duration | None = None
    canary_interval: Duration | None = None
    statistics_interval: Duration | None = None
    # Between two canaries while clients' requests succeed; by default twice the canary's interval.
    canary_floor: Duration | None = None
    # Canaries a second, over all models.
    canary_rate: float = Field(default=20.0, gt=0)
    rise: int = Field(default=2, ge=1)
    fall: int = Field(default=2, ge=1)
    # Wrong answers and errors need not come in a row: so many of the last so many.
    repeat: int = Field(default=2, ge=1)
    window: int = Field(default=20, ge=1, le=1000)
    grace: Duration = 60.0
    hold: Duration = 2.0
    max_hold: Duration = 60.0
    # Nothing of a model moves although work is waiting. Longer than the longest honest inference.
    stall: Duration = 10.0
    # The same for models that stream, where Triton does not count the responses of a stream, so
    # that nothing moves before one ends. Longer than the longest honest stream.
    stream_stall: Duration = 60.0
    port_timeout: Duration = 0.5
    server_timeout: Duration = 1.0
    model_timeout: Duration = 1.0
    # Share of clients' requests that fail in a model, above which it is a warning.
    traffic_failing: float = Field(default=0.5, gt=0, le=1)
    # Bytes of an answer to a canary.
    max_answer: int = Field(default=16 * 2**20, ge=1024, le=2**31 - 1)
    # How much of its weight an instance keeps in WARNING: [[strain, percent], ...], where strain
    # is how many times over its budget it is.
    weights: tuple[tuple[Strain, Percent], ...] = ((1.0, 50), (3.0, 25), (10.0, 10))

    @property
    def every(self) -> "Intervals":
        """Seconds between two looks, layer by layer."""
        canary = self.canary_interval or self.interval
        return Intervals(
            server=self.server_interval or self.interval,
            model=self.model_interval or self.interval,
            canary=canary,
            canary_floor=self.canary_floor or 2 * canary,
            statistics=self.statistics_interval or self.interval,
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.repeat > self.window:
            raise ValueError("repeat: expected at most health.window")
        if self.max_hold < self.hold:
            raise ValueError("max_hold: expected at least health.hold")
        if self.canary_floor is not None and self.canary_floor < self.every.canary:
            raise ValueError("canary_floor: expected at least the interval of canaries")
        strains = [strain for strain, _ in self.weights]
        percents = [percent for _, percent in self.weights]
        if strains != sorted(set(strains)) or percents != sorted(percents, reverse=True):
            raise ValueError("weights: expected rising strains and falling percentages")
        return self
