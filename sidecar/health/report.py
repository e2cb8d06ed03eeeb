"""A verdict with its evidence as text, for the output of Consul's check. Pure."""

from itertools import groupby

from sidecar.health.evidence import Finding
from sidecar.health.verdict import Verdict

_LIMIT = 4000  # characters; Consul cuts an output at 4 KiB


def report(verdict: Verdict) -> str:
    """The verdict in a line, what its reason means, and a line of layers for each subject.

    It holds no figures, and so changes only when a layer finds something else: Consul is asked to
    write it down each time.
    """
    lines = [verdict.summary]
    if verdict.detail:
        lines.append(verdict.reason.sentence)
    by_subject = sorted(verdict.evidence, key=lambda finding: finding.subject)
    for subject, findings in groupby(by_subject, key=lambda finding: finding.subject):
        lines.append(f"{subject or 'server'}: " + ", ".join(map(_layer, findings)))
    return "\n".join(lines)[:_LIMIT]


def _layer(finding: Finding) -> str:
    remark = f" ({finding.remark})" if finding.remark else ""
    return f"{finding.layer} {finding.reason}{remark}"
