"""`[election]`: which instances may become primary, when, and what a cold standby does."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from sidecar.election.decision import DecisionRules, Failback
from sidecar.election.rules import ElectionRules, PromotionRules
from sidecar.settings.tables.gpu import MemoryFloor
from sidecar.settings.values import Duration, Table, Whole, matching, parse_duration

_Delay = Annotated[float, BeforeValidator(parse_duration), Field(ge=0)]
Digest = Annotated[
    str,
    matching(
        r"(files|triton)-[0-9a-f]{16}",
        'the digest of a model set as `triton-sidecar list` shows it, such as "files-8f3c…"',
    ),
]


_LEAST = 2**20  # bytes; a smaller number is one without its unit


class ElectionSettings(Table):
    """The lease on the role of primary, and the conditions for getting it."""

    # The lease: the TTL of the Consul session that holds the lock.
    session_ttl: Annotated[Duration, Field(ge=10, le=86400)] = 15.0
    # Consul's lock-delay after a session has ended. By default 0, because the epoch tells an old
    # holder from a new one; in strict mode session_ttl, or Consul could give the lock away before
    # its holder notices.
    lock_delay: Annotated[_Delay, Field(le=60)] | None = None
    # strict: only an instance that is certain to be primary serves. For models with side effects:
    # one writer, or none.
    mode: Literal["preferred", "strict"] = "preferred"
    # Of the fit instances, the one with the highest priority takes a free lock first.
    priority: Whole = Field(default=100, ge=0, le=1000)
    # How long an instance must have been passing before it may take the role again.
    settle: _Delay = 5.0
    # Whether the role goes back to an instance of higher priority; manual: only report that it
    # could.
    failback: Failback = Failback.NEVER
    failback_settle: Duration = 60.0
    # How long other instances wait for the last holder if the end of its session says nothing about
    # its health.
    head_start: _Delay = 8.0
    # The model set that a primary has to serve; by default that of the last primary.
    model_set: Digest | None = None
    # refuse: an instance with another model set than a live primary takes no requests.
    mismatch: Literal["refuse", "serve"] = "refuse"
    # The free memory that each GPU needs before models are loaded on promotion.
    gpu_headroom: MemoryFloor | None = None
    # cold: models are not loaded until promotion. Triton has to be in explicit mode.
    standby: Literal["hot", "cold"] = "hot"
    # How long a cold standby leaves a free lock to hot instances that are starting.
    cold_patience: _Delay = 30.0
    # From taking the lock until the canaries pass; then the instance releases the lock.
    promotion_timeout: Duration = 120.0
    # How long it is then no candidate.
    promotion_pause: Duration = 300.0
    # The first inferences of each canary, whose time and answer do not count.
    warm_up: Whole = Field(default=2, ge=0, le=100)
    # Whether a cold standby unloads its models after it has lost the role.
    unload: bool = False

    @model_validator(mode="after")
    def _one_writer(self) -> Self:
        if self.mode == "strict" and self.session_ttl > 60:
            raise ValueError('session_ttl: expected at most 60 s with mode = "strict"')
        if self.mode == "strict" and self.delay < self.session_ttl:
            wanted = f"at least session_ttl ({self.session_ttl:g} s)"
            raise ValueError(f'lock_delay: expected {wanted} with mode = "strict"')
        return self

    @model_validator(mode="after")
    def _cold(self) -> Self:
        if self.unload and self.standby == "hot":
            raise ValueError('unload: expected only with standby = "cold"')
        floor = self.gpu_headroom
        if floor and not floor.percent and 0 < floor.amount < _LEAST:
            raise ValueError(f'gpu_headroom: expected a size such as "20GiB", found {floor}')
        return self

    @property
    def delay(self) -> float:
        """The lock-delay in seconds."""
        if self.lock_delay is not None:
            return self.lock_delay
        return self.session_ttl if self.mode == "strict" else 0.0

    @property
    def rules(self) -> ElectionRules:
        """The rules for `Participant`."""
        return ElectionRules(
            decision=DecisionRules(
                declared=self.model_set or "",
                failback=self.failback,
                failback_settle=self.failback_settle,
                settle=self.settle,
                head_start=self.head_start,
                cold_patience=self.cold_patience,
            ),
            session_ttl=self.session_ttl,
            lock_delay=self.delay,
            strict=self.mode == "strict",
            priority=self.priority,
            refuses=self.mismatch == "refuse",
            cold=self.standby == "cold",
            promotion=PromotionRules(
                timeout=self.promotion_timeout,
                pause=self.promotion_pause,
                warm_up=self.warm_up,
                unload=self.unload,
            ),
        )
