"""What is set about taking part in the election. Pure; durations are seconds."""

from dataclasses import dataclass, field

from sidecar.election.decision import DecisionRules


@dataclass(frozen=True, slots=True)
class PromotionRules:
    """What a cold standby does on promotion, and when it has failed.

    `timeout` is from taking the lock until the canaries pass, `pause` how long it does not stand
    after that has failed, `warm_up` how often each canary is asked before it counts, and `unload`
    whether the models are unloaded without the role.
    """

    timeout: float = 120.0
    pause: float = 300.0
    warm_up: int = 2
    unload: bool = False


@dataclass(frozen=True, slots=True)
class ElectionRules:
    """How this instance takes part; what decides about the lock is `decision`.

    `strict`: only who is primary for certain serves. `refuses`: who serves another model set than a
    living primary takes no requests. `cold`: no models are loaded without the role.
    """

    decision: DecisionRules = field(default_factory=DecisionRules)
    session_ttl: float = 15.0
    lock_delay: float = 0.0
    strict: bool = False
    priority: int = 100
    refuses: bool = True
    cold: bool = False
    promotion: PromotionRules = field(default_factory=PromotionRules)
