"""A scenario: a hypothesis about a fault, and how the fault is caused.

A drill of it brings the mesh into its steady state, causes the fault, waits until the scenario's
effect shows, removes the fault, and waits until all is as it was before.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from sidecar.drill.record import Violation
from sidecar.runtime.errors import SidecarError

# What a scenario needs of the mesh that it is run on. `processes`: their signals. `hosts`: an
# instance with its agent on a host of its own, whose networks can be cut and impaired. `servers`:
# several Consul servers. `models`: the models that can be told to misbehave. `cache`: the one of
# them whose answers Triton caches; only then does the load ask it. `mortal`: the model that a
# request can kill, on at least three instances. `disk`: a disk that can become full. `clock`:
# sidecars and control planes whose wall clock can be set.
Need = Literal["processes", "hosts", "servers", "models", "cache", "mortal", "disk", "clock"]
Victim = Literal["primary", "standby", "mesh"]

StageT = TypeVar("StageT")
# Causes a fault to the victim (an instance's id, or empty for `mesh`) as long as the context lasts.
# Leaving the context removes it, whatever happened meanwhile; removing twice does no harm. It gives
# how many seconds ago the fault was caused, if that was later than when the context was entered: a
# fault that somebody else causes was ordered first. None if it was not.
Injection = Callable[[StageT, str], AbstractAsyncContextManager[float | None]]


class Violated(SidecarError):
    """Leaving an injection showed that its hypothesis does not hold; the fault is removed."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(f"expected {violation.expected}, found {violation.found}")
        self.violation = violation


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must hold. A scenario is passed if nothing else happened.

    Attributes:
        moves_role: whether another instance becomes primary; None if either is right.
        reasons: codes of which the victim's verdict must name one; empty if any will do.
        wrong_until_verdict: clients may get wrong answers until the victim's verdict is published.
        fails: requests may fail, because no healthy instance is reachable or the request is at
            fault; at most the objective's share.
        cuts_streams: streams of the victim may end early.
        stays_healthy: the verdict of the victim, or of all instances, may not become critical.
    """

    moves_role: bool | None = None
    reasons: frozenset[str] = frozenset()
    wrong_until_verdict: bool = False
    fails: bool = False
    cuts_streams: bool = False
    stays_healthy: bool = False


@dataclass(frozen=True, slots=True)
class Scenario(Generic[StageT]):
    """One fault, or a pair that meets.

    Attributes:
        name: what is typed and stored, such as `freeze`.
        title: a few words for people.
        hypothesis: what holds before, during and after, in a sentence or two.
        inject: causes the fault.
        victim: on which instance, at the moment of the injection.
        needs: what the mesh must offer.
        expects: what must hold.
        lasts: seconds for which the fault stays after its effect showed.
        settles: seconds of undisturbed load before and after it.
        live: whether it may run on a live mesh at all, if its settings permit.
        only_primary: it makes no sense on a standby, as a switchover from one, or has no effect.
    """

    name: str
    title: str
    hypothesis: str
    inject: Injection[StageT]
    victim: Victim = "primary"
    needs: frozenset[Need] = frozenset({"processes"})
    expects: Expectation = Expectation()
    lasts: float = 3.0
    settles: float = 3.0
    live: bool = False
    only_primary: bool = False

    def lasting(self, seconds: float) -> "Scenario[StageT]":
        """The same, but the fault stays for so long."""
        return replace(self, lasts=seconds)
