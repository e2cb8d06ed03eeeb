"""Changes as alerts of Alertmanager, for `POST /api/v2/alerts`. Pure.

Alertmanager identifies an alert by its labels. So labels hold nothing that changes while it lasts;
everything else is in the annotations.
"""

from sidecar.notify.documents import Change, DrillChange, RoleChange, Sender, VerdictChange
from sidecar.runtime.timestamps import timestamp

_PHASES = {"began": "began", "ended": "ended", "aborted": "was aborted", "refused": "was refused"}
_SHOWN = 300.0  # seconds that a change of role is an alert
_MISSED = 4  # missed repetitions after which a lasting alert ends


def alert(change: Change, now: float, resend: float) -> dict[str, object]:
    """The alert for a change.

    Args:
        change: the change.
        now: when it is sent, in Unix seconds.
        resend: seconds between repetitions, if it lasts.
    """
    match change:
        case RoleChange():
            return _role(change, now)
        case VerdictChange():
            return _verdict(change, now, _MISSED * resend)
        case DrillChange():
            return _drill(change, now)


def _role(change: RoleChange, now: float) -> dict[str, object]:
    instance = change.sender.instance
    epoch = {"epoch": str(change.epoch)} if change.epoch else {}
    in_epoch = f" Epoch {change.epoch}." if change.epoch else ""
    return {
        "labels": _labels("TritonRoleChanged", "info", change.sender) | {"role": change.after},
        "annotations": {
            "summary": f"{instance} is {change.after}, was {change.before}",
            "description": f"{change.why or 'Unknown cause'}.{in_epoch}",
            **epoch,
        },
        "startsAt": timestamp(change.at),
        # From now, so that a delayed alert is visible as well.
        "endsAt": timestamp(max(now, change.at) + _SHOWN),
    }


def _verdict(change: VerdictChange, now: float, lasting: float) -> dict[str, object]:
    instance, detail = change.sender.instance, f": {change.detail}" if change.detail else ""
    verb = "does not serve" if change.alarming else "is no longer critical"
    # Ending an alert that was never raised has no effect. It ends one that an earlier process of
    # this instance has left.
    ends = max(now, change.at) + lasting if change.alarming else change.at
    return {
        "labels": _labels("TritonNotServing", "critical", change.sender),
        "annotations": {
            "summary": f"{instance} {verb} ({change.reason})",
            "description": f"{change.before} → {change.after}{detail}",
        },
        "startsAt": timestamp(change.at),
        "endsAt": timestamp(ends),
    }


def _drill(change: DrillChange, now: float) -> dict[str, object]:
    instance, why = change.sender.instance, change.why or change.code
    over = f": {why}" if why else ""
    return {
        "labels": _labels("TritonDrill", "info", change.sender) | {"scenario": change.scenario},
        "annotations": {
            "summary": f"{instance}: a drill by {change.by} {_PHASES[change.phase]}",
            "description": f"Scenario {change.scenario}, fault {change.fault}{over}.",
        },
        "startsAt": timestamp(change.at),
        "endsAt": timestamp(max(now, change.at) + _SHOWN),
    }


def _labels(name: str, severity: str, sender: Sender) -> dict[str, str]:
    return {
        "alertname": name,
        "service": sender.service,
        "instance": sender.instance,
        "severity": severity,
    }
