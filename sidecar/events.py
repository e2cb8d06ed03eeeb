"""What happened, as frozen events. Metrics and logs are hooks on them; nothing else logs.

Where an event has `seconds`, it is how long the thing took.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.runtime.errors import SidecarError
from sidecar.verdict.evidence import Finding
from sidecar.verdict.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Probed:
    """Something was looked at."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class ProbingLimited:
    """Probing sends so many canaries a second at most, over all models."""

    canary_rate: float


@dataclass(frozen=True, slots=True)
class CanarySent:
    """A model was asked its canary."""

    model: str


@dataclass(frozen=True, slots=True)
class CanaryDerived:
    """A model without a canary is asked one made from its metadata."""

    model: str
    advice: str


@dataclass(frozen=True, slots=True)
class CanaryCached:
    """A canary was answered by Triton's response cache, so that the model may be dead."""

    model: str
    advice: str


@dataclass(frozen=True, slots=True)
class GpuMissing:
    """NVML shows no GPU any more, or never did; `hidden` is whether Triton has some."""

    why: str
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class VerdictChanged:
    """The verdict is another one than before."""

    before: Verdict
    after: Verdict


@dataclass(frozen=True, slots=True)
class Published:
    """A new verdict is in Consul; `seconds` counts from the finding that made it."""

    verdict: Verdict
    seconds: float


@dataclass(frozen=True, slots=True)
class Registered:
    """The service was registered, because of `why`."""

    why: str


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """This instance has another role than before; the epoch is 0 unless it is primary."""

    before: str
    after: str
    epoch: int
    why: str


@dataclass(frozen=True, slots=True)
class Promoted:
    """A cold standby loaded its models and serves; or did not, and gives way."""

    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Paused:
    """Automation is paused, and why; an empty text says that it goes on."""

    why: str


@dataclass(frozen=True, slots=True)
class FailbackDue:
    """Whether this instance is preferred to the primary and could take the role back."""

    due: bool


@dataclass(frozen=True, slots=True)
class ModelSetCompared:
    """Whose model set this instance's differs from; an empty text says from none."""

    differs: str


@dataclass(frozen=True, slots=True)
class ModelSetRead:
    """The files of the model set could not be read, and why; an empty text says that they can."""

    error: str


@dataclass(frozen=True, slots=True)
class ModelFilesDiffer:
    """The models whose files on disk are not those that are loaded; none says that all are."""

    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelStateSaved:
    """What is loaded cannot be kept in `triton.state`, and why; an empty text says that it can."""

    error: str


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """A request to an outside system failed and will be tried again."""

    system: str
    operation: str
    error: SidecarError


@dataclass(frozen=True, slots=True)
class HookRan:
    """The command of a hook ended; `error` is empty if it did what it should."""

    hook: str
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class NotificationDropped:
    """Somebody, a hook or a target of notifications, will not be told of a change."""

    target: str
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step of a start, stop or withdrawal ended; `error` is empty if it did what it should."""

    step: str
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class StopTimeoutTooShort:
    """Triton may be stopped before a drain has had its time, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class DrainUnverified:
    """It cannot be proven that nothing is in flight, and why: a drain waits until its deadline."""

    why: str


@dataclass(frozen=True, slots=True)
class ConnectionsReset:
    """A withdrawal has not come to its end in time; so many of Triton's connections were reset."""

    count: int


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The settings were read anew; `error` says why nothing was taken over, if so."""

    changed: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class RecoveryDecided:
    """Recovery sees things otherwise than before: `outcome` is idle, wait, act or give up.

    In a dry run the `action` is not taken.
    """

    outcome: str
    why: str
    dry_run: bool
    action: str = ""


@dataclass(frozen=True, slots=True)
class RecoveryActed:
    """An action on an ill Triton ended; `error` is empty if it did what it should."""

    action: str
    why: str
    seconds: float
    error: str = ""


Event = (
    Probed
    | ProbingLimited
    | CanarySent
    | CanaryCached
    | CanaryDerived
    | GpuMissing
    | VerdictChanged
    | Published
    | Registered
    | RoleChanged
    | Promoted
    | Paused
    | FailbackDue
    | ModelSetCompared
    | ModelSetRead
    | ModelFilesDiffer
    | ModelStateSaved
    | RequestFailed
    | HookRan
    | NotificationDropped
    | StepDone
    | StopTimeoutTooShort
    | DrainUnverified
    | ConnectionsReset
    | Reloaded
    | RecoveryDecided
    | RecoveryActed
)
Hook = Callable[[Event], None]


def fan_out(*hooks: Hook) -> Hook:
    """One hook that calls the given ones in order."""

    def call(event: Event) -> None:
        for hook in hooks:
            hook(event)

    return call
