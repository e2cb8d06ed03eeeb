"""What a drill observes: the outcome of every request, and the moments of every event.

All times are seconds since the drill began, on the monotonic clock.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["unary", "stream"]
Outcome = Literal["answered", "failed", "wrong"]

# `injected`, `restored`: the drill did it. `verdict`: the status in Consul of `instance` became
# `detail`. `primary`: `instance` took the lock with epoch `detail`. `published`: a control plane
# built the snapshot with the change. `acked`: the last Envoy accepted it. `traffic`: `instance`
# answered a request for the first time since the injection. `recovered`: all is as it was before.
# `aborted`: a stop condition ended the drill.
Event = Literal[
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
    instance that sent a stream's first response.
    """

    kind: Kind
    client: int
    due: float
    took: float
    outcome: Outcome
    instance: str = ""
    detail: str = ""
    began_on: str = ""

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
    """Something that happened at a moment. `instance` is empty if it is about the whole mesh."""

    at: float
    event: Event
    instance: str = ""
    detail: str = ""
