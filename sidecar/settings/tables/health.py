"""`[health]`: how Triton is probed, and what decides the verdict."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sidecar.health.rules import Intervals, ProbeRules
from sidecar.health.track import TrackRules as TrackRules
from sidecar.settings.values import Duration, Number, Table, Whole

Percent = Annotated[Whole, Field(ge=1, le=100)]
Strain = Annotated[Number, Field(ge=1)]
Count = Annotated[Whole, Field(ge=1, le=1000)]


class HealthSettings(Table):
    """How often to probe, how long to wait, and how many findings decide."""

    # Between two probes of a layer without its own interval.
    interval: Duration = 1.0
    # Between two probes while a layer's findings disagree with its level.
    fast_interval: Duration = 0.1
    server_interval: Duration | None = None
    model_interval: Duration | None = None
    canary_interval: Duration | None = None
    statistics_interval: Duration | None = None
    # While clients' requests succeed, canaries of a model take this share of the time: cheap ones
    # are sent up to four times in canary_interval, expensive ones once in canary_floor, which is
    # twice canary_interval by default.
    canary_share: Number = Field(default=0.05, gt=0, le=1)
    canary_floor: Duration | None = None
    # Canaries per second over all models; by default 20, or as many as their intervals need.
    canary_rate: Annotated[Number, Field(ge=0.01, le=1000)] | None = None
    # Good findings in a row that bring a layer up.
    rise: Count = 2
    # Bad findings in a row that take a layer down.
    fall: Count = 2
    # Wrong answers and errors need not be in a row: `repeat` of the last `window` take it down.
    repeat: Count = 2
    window: Count = 20
    # After the start, how long an instance that has not passed yet is starting and not critical.
    grace: Duration = 60.0
    # The least time in CRITICAL and WARNING; CRITICAL twice as long after each relapse within
    # max_hold, up to max_hold.
    hold: Duration = 2.0
    max_hold: Duration = 60.0
    # A model is hung after so long without progress while work is waiting. Set it longer than the
    # longest legitimate inference.
    stall: Duration = 10.0
    # The same for models that stream, if Triton does not count responses, so that there is no
    # progress before a stream ends. Set it longer than the longest legitimate stream.
    stream_stall: Duration = 60.0
    port_timeout: Duration = 0.5
    server_timeout: Duration = 1.0
    model_timeout: Duration = 1.0
    # The share of a model's client requests that may fail before it is a warning.
    traffic_failing: Number = Field(default=0.5, gt=0, le=1)
    # Which models an instance needs in order to serve: all, or any one. With "any" it serves those
    # that are healthy, and tells Consul which are not. That is for Envoys that route by model.
    required_models: Literal["all", "any"] = "all"
    # The largest answer to a canary, in bytes.
    max_answer: Whole = Field(default=16 * 2**20, ge=1024, le=2**31 - 1)
    # The share of its weight that an instance keeps in WARNING: [[strain, percent], ...], where
    # strain is how many times its budget it takes.
    weights: tuple[tuple[Strain, Percent], ...] = ((1.0, 50), (3.0, 25), (10.0, 10))

    @property
    def every(self) -> Intervals:
        """Seconds between two probes, by layer."""
        canary = self.canary_interval or self.interval
        return Intervals(
            server=self.server_interval or self.interval,
            model=self.model_interval or self.interval,
            canary=canary,
            canary_floor=self.canary_floor or 2 * canary,
            statistics=self.statistics_interval or self.interval,
        )

    @property
    def rules(self) -> ProbeRules:
        """The rules for `Prober`."""
        return ProbeRules(
            interval=self.interval,
            fast_interval=self.fast_interval,
            every=self.every,
            canary_rate=self.canary_rate,
            canary_share=self.canary_share,
            track=TrackRules(
                rise=self.rise,
                fall=self.fall,
                repeat=self.repeat,
                window=self.window,
                grace=self.grace,
                hold=self.hold,
                max_hold=self.max_hold,
                pulse=2 * min(self.interval, *self.every.all),
                weights=self.weights,
                any_model=self.required_models == "any",
            ),
            stall=self.stall,
            stream_stall=self.stream_stall,
            port_timeout=self.port_timeout,
            server_timeout=self.server_timeout,
            model_timeout=self.model_timeout,
            traffic_failing=self.traffic_failing,
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.repeat > self.window:
            raise ValueError(
                f"repeat: expected at most window, which is {self.window}, found {self.repeat}"
            )
        if self.max_hold < self.hold:
            raise ValueError(
                f"max_hold: expected at least hold, which is {self.hold:g} s,"
                f" found {self.max_hold:g} s"
            )
        # Only if it was set: an interval shorter than its default is fine.
        if "fast_interval" in self.model_fields_set and self.fast_interval > self.interval:
            raise ValueError(
                f"fast_interval: expected at most interval, which is {self.interval:g} s,"
                f" found {self.fast_interval:g} s"
            )
        if self.canary_floor is not None and self.canary_floor < self.every.canary:
            raise ValueError(
                f"canary_floor: expected at least the canaries' interval, which is"
                f" {self.every.canary:g} s, found {self.canary_floor:g} s"
            )
        strains = [strain for strain, _ in self.weights]
        percents = [percent for _, percent in self.weights]
        if strains != sorted(set(strains)) or percents != sorted(percents, reverse=True):
            raise ValueError("weights: expected rising strains and falling percentages")
        return self
