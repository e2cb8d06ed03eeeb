"""What a drill observes: the outcome of every request, and the moments of every event.

All times are seconds since the drill began, on the monotonic clock.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["unary", "stream"]
Outcome = Literal["answered", "failed", "wrong"]

# `ordered`: the fault was ordered from the victim's sidecar. `injected`, `restored`: it was caused,
# and undone. `verdict`: the status in Consul of `instance` became `status`, for `reason`.
# `primary`: `instance` took the lock with `epoch`. `published`: a control plane built the snapshot
# that prefers `instance`, of `epoch`. `acked`: the last Envoy accepted it. `traffic`: `instance`
# answered a request for the first time since the injection. `recovered`: all is as it was before.
# `aborted`: a stop condition, with the code `reason`, ended the drill.
Event = Literal[
    "ordered",
    "injected",
    "restored",
    "verdict",
    "primary",
    "published",
    "acked",
    "traffic",
    "recovered",
    "aborted",
]


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. `due` is when the schedule wanted it sent, `took` how long from then to its end.

    With a closed loop `due` is when it was sent. `instance` answered it, or is empty if that is not
    known; `detail` is the client's error, or what was wrong about the answer. `began_on` is the
    instance that sent a stream's first response. `late` is how much of `took` is due to the load
    itself: its process sent the request late, or could not see the answer.
    """

    kind: Kind
    client: int
    due: float
    took: float
    outcome: Outcome
    instance: str = ""
    detail: str = ""
    began_on: str = ""
    late: float = 0.0

    @property
    def moved(self) -> bool:
        """Whether another instance finished a stream than the one that it began on."""
        return "" != self.began_on != self.instance != ""

    @property
    def ended(self) -> float:
        """When the client had the outcome."""
        return self.due + self.took


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at a moment.

    Attributes:
        at: when.
        event: what.
        instance: to which instance; empty if it is about the whole mesh.
        detail: a few more words for people.
        status: of a verdict: `passing`, `warning`, `critical`, or `gone`.
        reason: the code of a verdict's reason, or of what aborted the drill; empty if unknown.
        epoch: of a `primary`, `published` or `acked`; 0 if it is not known.
    """

    at: float
    event: Event
    instance: str = ""
    detail: str = ""
    status: str = ""
    reason: str = ""
    epoch: int = 0
