"""The output of the sidecar's Consul check: a verdict with its evidence as text. Pure."""

from collections.abc import Iterable

from sidecar.verdict.evidence import Finding, Level
from sidecar.verdict.verdict import Verdict

_LIMIT = 4000  # bytes; Consul truncates an output at 4 KiB


def report(verdict: Verdict, evidence: Iterable[Finding]) -> str:
    """The verdict's line, the meaning of its reason, and a line of layers for each subject.

    Subjects with the worst findings come first. The text holds no momentary figures, so it changes
    only with the findings: each change is a write to Consul.
    """
    lines = [verdict.summary]
    if verdict.detail:
        lines.append(verdict.reason.sentence)
    by_subject: dict[str, list[Finding]] = {}
    for finding in evidence:
        by_subject.setdefault(finding.subject, []).append(finding)
    worst_first = sorted(
        by_subject.items(), key=lambda item: (-max(each.level for each in item[1]), item[0])
    )
    for subject, findings in worst_first:
        layers = ", ".join(map(_layer, findings))
        lines.append(f"{subject or 'server'}: {layers}")
        details = dict.fromkeys(each.detail for each in findings if each.level > Level.OK)
        lines += [f"  {detail}" for detail in details if detail and detail != verdict.detail]
    return "\n".join(lines).encode()[:_LIMIT].decode(errors="ignore")


def _layer(finding: Finding) -> str:
    remark = f" ({finding.remark})" if finding.remark else ""
    return f"{finding.layer} {finding.reason}{remark}"
