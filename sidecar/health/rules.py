"""What is set about probing a Triton and looking at its GPUs. Pure; durations are seconds."""

from dataclasses import dataclass

from sidecar.health.gpu import GpuRules
from sidecar.health.track import TrackRules

_RATE = 20.0


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds between two looks; `canary_floor` is that of canaries beside successful traffic."""

    server: float
    model: float
    canary: float
    canary_floor: float
    statistics: float

    @property
    def all(self) -> tuple[float, ...]:
        """Those of every layer; a floor is none."""
        return self.server, self.model, self.canary, self.statistics


@dataclass(frozen=True, slots=True)
class ProbeRules:
    """How often to look, how long to wait, and what decides; docs/health.md has each.

    `interval` is between two looks of what has no interval of its own, `every` of the layers;
    `fast_interval` while findings disagree with levels. `canary_rate` is canaries a second over all
    models, None for the usual one. `track` is what decides about levels and states. `stall` and
    `stream_stall` are how long nothing of a model may move. `traffic_failing` is the share of
    clients' requests that may fail.
    """

    interval: float
    fast_interval: float
    every: Intervals
    canary_rate: float | None
    track: TrackRules
    stall: float
    stream_stall: float
    port_timeout: float
    server_timeout: float
    model_timeout: float
    traffic_failing: float

    @property
    def beat(self) -> float:
        """Seconds between two looks at the time: the shortest of all intervals."""
        return min(self.interval, *self.every.all)

    def rate(self, models: int) -> float:
        """Canaries a second at most, over so many models."""
        return self.canary_rate or max(_RATE, models / self.every.canary)


@dataclass(frozen=True, slots=True)
class GpuWatchRules:
    """Whether and how often the GPUs are looked at, how long for, and what counts against them."""

    enabled: bool
    interval: float
    timeout: float
    gpu: GpuRules
