"""Changes as alerts of Alertmanager, for `POST /api/v2/alerts`. Pure.

Alertmanager takes two alerts with the same labels for one. So labels tell which alert it is, and
hold nothing that changes while it lasts; what is known of it stands in the annotations.
"""

from sidecar.notify.documents import Change, RoleChange, Sender, VerdictChange
from sidecar.runtime.timestamps import timestamp

_SHOWN = 300.0  # seconds for which a change of role is an alert
_MISSED = 4  # an alert that lasts ends when so many of its repetitions have not come


def alert(change: Change, now: float, resend: float) -> dict[str, object]:
    """The alert that a change is.

    Args:
        change: what has happened.
        now: Unix seconds at which it is sent.
        resend: seconds after which it is sent again, if it lasts.
    """
    match change:
        case RoleChange():
            return _role(change, now)
        case VerdictChange():
            return _verdict(change, now, _MISSED * resend)


def _role(change: RoleChange, now: float) -> dict[str, object]:
    instance = change.sender.instance
    epoch = f" Epoch {change.epoch}." if change.epoch else ""
    return {
        "labels": _labels("TritonRoleChanged", "info", change.sender) | {"role": change.after},
        "annotations": {
            "summary": f"{instance} is {change.after}, was {change.before}",
            "description": f"{change.why or 'Unknown cause'}.{epoch}",
        },
        "startsAt": timestamp(change.at),
        # From now: what was held up by the network is to be seen as well.
        "endsAt": timestamp(max(now, change.at) + _SHOWN),
    }


def _verdict(change: VerdictChange, now: float, lasting: float) -> dict[str, object]:
    instance, detail = change.sender.instance, f": {change.detail}" if change.detail else ""
    verb = "does not serve" if change.alarming else "is no longer critical"
    # The end of an alert that nobody has raised does nothing. It ends what an earlier process
    # of this instance has left.
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


def _labels(name: str, severity: str, sender: Sender) -> dict[str, str]:
    return {
        "alertname": name,
        "service": sender.service,
        "instance": sender.instance,
        "severity": severity,
    }
