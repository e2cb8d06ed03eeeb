"""The JSON documents that report a change of role or verdict, and drills. Pure.

docs/notifications.md describes them: fields may be added, but none changes its meaning without
another `VERSION`. Times are Unix seconds until they are written.
"""

import json
from dataclasses import dataclass
from enum import StrEnum

from sidecar.events import DrillProgressed, Event, RoleChanged, VerdictChanged
from sidecar.runtime.timestamps import timestamp
from sidecar.verdict.verdict_line import State

VERSION = 1


class Subject(StrEnum):
    """What has changed."""

    ROLE = "role"
    VERDICT = "verdict"
    DRILL = "drill"


@dataclass(frozen=True, slots=True)
class Sender:
    """The instance that sends it."""

    service: str
    instance: str


@dataclass(frozen=True, slots=True)
class RoleChange:
    """The instance's role has changed; the epoch is 0 unless it is primary."""

    sender: Sender
    at: float
    before: str
    after: str
    epoch: int
    why: str

    @property
    def subject(self) -> Subject:
        """What has changed."""
        return Subject.ROLE


@dataclass(frozen=True, slots=True)
class VerdictChange:
    """The state of the instance's verdict has changed."""

    sender: Sender
    at: float
    before: str
    after: str
    serving: bool
    reason: str
    detail: str

    @property
    def subject(self) -> Subject:
        """What has changed."""
        return Subject.VERDICT

    @property
    def alarming(self) -> bool:
        """Whether it needs an alarm: ordered and expected states do not."""
        return self.after == State.CRITICAL.value


@dataclass(frozen=True, slots=True)
class DrillChange:
    """A drill on the instance began, ended, was aborted or refused: its `phase`."""

    sender: Sender
    at: float
    phase: str
    scenario: str
    fault: str
    by: str
    code: str
    why: str

    @property
    def subject(self) -> Subject:
        """What has changed."""
        return Subject.DRILL


Change = RoleChange | VerdictChange | DrillChange


def change_of(event: Event, sender: Sender, at: float) -> Change | None:
    """The change that an event stands for.

    None unless the role or the verdict's state differs, or a drill began or ended.
    """
    match event:
        case DrillProgressed(phase, scenario, fault, by, code, why):
            return DrillChange(sender, at, phase, scenario, fault, by, code, why)
        case RoleChanged(before, after, epoch, why) if before != after:
            return RoleChange(sender, at, str(before), str(after), epoch, why)
        case VerdictChanged(before, after) if before.state is not after.state:
            return VerdictChange(
                sender=sender,
                at=at,
                before=before.state.value,
                after=after.state.value,
                serving=after.serving,
                reason=after.reason.value,
                detail=after.detail,
            )
    return None


def document(change: Change) -> dict[str, object]:
    """The change as a document for programs."""
    match change:
        case RoleChange():
            moved = {"before": change.before, "after": change.after}
            return _head(change, "role_change") | moved | {"epoch": change.epoch, "why": change.why}
        case VerdictChange():
            return _head(change, "verdict_change") | {
                "before": change.before,
                "after": change.after,
                "serving": change.serving,
                "reason": change.reason,
                "detail": change.detail,
            }
        case DrillChange():
            return _head(change, "drill") | {
                "phase": change.phase,
                "scenario": change.scenario,
                "fault": change.fault,
                "by": change.by,
                "code": change.code,
                "why": change.why,
            }


def _head(change: Change, event: str) -> dict[str, object]:
    return {
        "version": VERSION,
        "event": event,
        "at": timestamp(change.at),
        "service": change.sender.service,
        "instance": change.sender.instance,
    }


def encode(value: object) -> bytes:
    """One line of JSON, in ASCII."""
    return json.dumps(value).encode() + b"\n"


def short(change: Change) -> str:
    """A change in short."""
    if isinstance(change, DrillChange):
        return f"{change.subject}: {change.scenario} {change.phase}"
    return f"{change.subject}: {change.before} → {change.after}"
