"""Events: what happened in a sidecar, as frozen values. Metrics and logs are hooks on them.

Nothing else logs. `seconds` of an event is a duration.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.runtime.errors import SidecarError
from sidecar.verdict.evidence import Finding
from sidecar.verdict.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Probed:
    """A probe ran."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class ProbingLimited:
    """The upper limit on canaries per second, across all models, was set."""

    canary_rate: float


@dataclass(frozen=True, slots=True)
class CanarySent:
    """A model was sent its canary."""

    model: str


@dataclass(frozen=True, slots=True)
class CanaryDerived:
    """A model without a canary is sent one derived from its metadata."""

    model: str
    advice: str


@dataclass(frozen=True, slots=True)
class CanaryCached:
    """Triton's response cache answered a canary, so the model may be dead."""

    model: str
    advice: str


@dataclass(frozen=True, slots=True)
class GpuMissing:
    """NVML shows no GPU, or none any more; `hidden` is whether Triton has some."""

    why: str
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class VerdictChanged:
    """The verdict changed."""

    before: Verdict
    after: Verdict


@dataclass(frozen=True, slots=True)
class Published:
    """A new verdict is in Consul; `seconds` counts from the finding that caused it."""

    verdict: Verdict
    seconds: float


@dataclass(frozen=True, slots=True)
class Registered:
    """The instance was registered, for the reason `why`."""

    why: str


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """The role of this instance changed; the epoch is 0 unless it is primary."""

    before: str
    after: str
    epoch: int
    why: str


@dataclass(frozen=True, slots=True)
class Promoted:
    """A cold standby loaded its models and serves; or it failed, and releases the role."""

    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Paused:
    """Automation is paused, and why; an empty `why` says that it resumed."""

    why: str


@dataclass(frozen=True, slots=True)
class FailbackDue:
    """Whether this instance is preferred over the primary and can take the role back."""

    due: bool


@dataclass(frozen=True, slots=True)
class ModelSetCompared:
    """Which model set this instance's differs from; an empty text: none."""

    differs: str


@dataclass(frozen=True, slots=True)
class ModelSetRead:
    """Why the files of the model set cannot be read; an empty `error`: they can be read again."""

    error: str


@dataclass(frozen=True, slots=True)
class ModelFilesDiffer:
    """The models whose files on disk differ from what is loaded; none: all match again."""

    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelStateSaved:
    """Why `triton.state` cannot be written; an empty `error`: it is written again."""

    error: str


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """A request to an outside system failed; it will be retried."""

    system: str
    operation: str
    error: SidecarError


@dataclass(frozen=True, slots=True)
class HookRan:
    """A hook's command ended; `error` is empty if it succeeded."""

    hook: str
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class NotificationDropped:
    """A notification for a hook or webhook was dropped."""

    target: str
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step of a start, stop or withdrawal ended; `error` is empty if it succeeded."""

    step: str
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class StopTimeoutTooShort:
    """Why systemd may stop Triton before a drain can finish."""

    why: str


@dataclass(frozen=True, slots=True)
class DrainUnverified:
    """Why it cannot be verified that no request is in flight: the drain waits for its deadline."""

    why: str


@dataclass(frozen=True, slots=True)
class ConnectionsReset:
    """A drain timed out; `count` of Triton's connections were reset."""

    count: int


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The settings were reloaded; or `error` says why nothing was applied."""

    changed: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class RecoveryDecided:
    """Recovery decided differently than before: `outcome` is idle, wait, act or give up.

    In a dry run the `action` is not taken.
    """

    outcome: str
    why: str
    dry_run: bool
    action: str = ""


@dataclass(frozen=True, slots=True)
class RecoveryActed:
    """A recovery action on Triton ended; `error` is empty if it succeeded."""

    action: str
    why: str
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class DrillProgressed:
    """A drill on this instance began, ended, was aborted or refused, which `phase` says.

    `code` and `why` say why it was aborted or refused.
    """

    phase: str
    scenario: str
    fault: str
    by: str
    code: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class DrillSeen:
    """When (Unix seconds) the last drill of the service went to its end; 0 if none has."""

    ended: float


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
    | DrillProgressed
    | DrillSeen
)
Hook = Callable[[Event], None]


def fan_out(*hooks: Hook) -> Hook:
    """A hook that calls the given ones in their order."""

    def call(event: Event) -> None:
        for hook in hooks:
            hook(event)

    return call
