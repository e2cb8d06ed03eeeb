"""The rules for probing a Triton and its GPUs. Pure; durations are seconds."""

from dataclasses import dataclass

from sidecar.health.gpu import GpuRules
from sidecar.health.track import TrackRules

_RATE = 20.0


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds between two probes; `canary_floor` is the most while clients' requests succeed."""

    server: float
    model: float
    canary: float
    canary_floor: float
    statistics: float

    @property
    def all(self) -> tuple[float, ...]:
        """The interval of every layer, without the floor."""
        return self.server, self.model, self.canary, self.statistics


@dataclass(frozen=True, slots=True)
class ProbeRules:
    """How often to probe, how long to wait, and what decides; docs/health.md explains each.

    `every` has the interval of each layer, `interval` is for everything else, and `fast_interval`
    applies while findings disagree with levels. `canary_rate` is canaries per second over all
    models, None for the default; `canary_share` the share of the time that those of a model may
    take while clients' requests succeed, above 0 and at most 1. `track` decides levels and states.
    `stall` and `stream_stall` are how long a model may make no progress. `traffic_failing` is the
    share of clients' requests that may fail.
    """

    interval: float
    fast_interval: float
    every: Intervals
    canary_rate: float | None
    canary_share: float
    track: TrackRules
    stall: float
    stream_stall: float
    port_timeout: float
    server_timeout: float
    model_timeout: float
    traffic_failing: float

    @property
    def beat(self) -> float:
        """Seconds between two re-assessments without findings: the shortest of all intervals."""
        return min(self.interval, *self.every.all)

    def rate(self, models: int) -> float:
        """The most canaries per second, over so many models."""
        return self.canary_rate or max(_RATE, models / self.every.canary)


@dataclass(frozen=True, slots=True)
class GpuWatchRules:
    """Whether and how often to read the GPUs, the timeout of a reading, and what counts."""

    enabled: bool
    interval: float
    timeout: float
    gpu: GpuRules
