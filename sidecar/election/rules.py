"""The election's rules, made from settings. Pure; durations are seconds."""

from dataclasses import dataclass, field

from sidecar.election.decision import DecisionRules


@dataclass(frozen=True, slots=True)
class PromotionRules:
    """How a cold standby is promoted, and when that has failed.

    `timeout` runs from taking the lock until the canaries pass; `pause` is how long the instance
    does not stand for election after a failure, `warm_up` how many times each canary runs before
    its answers count, and `unload` whether the models are unloaded when the role is lost.
    """

    timeout: float = 120.0
    pause: float = 300.0
    warm_up: int = 2
    unload: bool = False


@dataclass(frozen=True, slots=True)
class ElectionRules:
    """How this instance takes part; `decision` has the rules for the lock.

    `strict`: only a confirmed primary serves. `refuses`: an instance whose model set differs from a
    live primary's takes no requests. `cold`: no models are loaded without the role.
    """

    decision: DecisionRules = field(default_factory=DecisionRules)
    session_ttl: float = 15.0
    lock_delay: float = 0.0
    strict: bool = False
    priority: int = 100
    refuses: bool = True
    cold: bool = False
    promotion: PromotionRules = field(default_factory=PromotionRules)
