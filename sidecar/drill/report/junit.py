"""The record as JUnit XML: a test suite, with a test case for each run.

A run that failed or was aborted is a `failure`; a skipped one is `skipped`, with the reason.
"""

import re
import xml.etree.ElementTree as ET
from typing import Final

from sidecar.drill.record import Record, Run
from sidecar.drill.report import figures
from sidecar.drill.report.figures import KINDS, NOT_SEEN

_ROOM: Final = "triton-sidecar.drill"
# What XML 1.0 cannot have, even escaped.
_FORBIDDEN: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(record: Record) -> str:
    """The text of the file. Times are seconds with milliseconds."""
    bad = sum(run.status in ("failed", "aborted") for run in record.runs)
    skipped = sum(run.status == "skipped" for run in record.runs)
    suite = ET.Element(
        "testsuite",
        name=_ROOM,
        tests=str(len(record.runs)),
        failures=str(bad),
        errors="0",
        skipped=str(skipped),
        time=_seconds(sum(map(lasted, record.runs))),
        timestamp=record.environment.began.removesuffix("Z"),
    )
    _environment(suite, record)
    for run in record.runs:
        _case(suite, run)
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def lasted(run: Run) -> float:
    """How long a run took: until its last request or event, in seconds."""
    return max([0.0, *(each.ended for each in run.samples), *(mark.at for mark in run.marks)])


def _environment(suite: ET.Element, record: Record) -> None:
    known = record.environment
    given = {
        "command": known.command,
        "machine": known.machine,
        "mesh": known.mesh,
        "load": known.load,
        "seed": str(known.seed),
        **{f"version.{name}": version for name, version in known.versions.items()},
        **{f"objective.{name}": f"{value:g}" for name, value in record.objectives.items()},
    }
    properties = ET.SubElement(suite, "properties")
    for name, value in given.items():
        ET.SubElement(properties, "property", name=_clean(name), value=_clean(value))


def _case(suite: ET.Element, run: Run) -> None:
    name = _clean(f"{run.scenario} (round {run.round})")
    case = ET.SubElement(suite, "testcase", name=name, classname=_ROOM, time=_seconds(lasted(run)))
    match run.status:
        case "skipped":
            ET.SubElement(case, "skipped", message=_clean(run.reason))
        case "failed" | "aborted":
            lines = [f"{v.code}: expected {v.expected}, found {v.found}" for v in run.violations]
            said = run.reason or "; ".join(lines) or run.status
            failure = ET.SubElement(case, "failure", type=run.status, message=_clean(said))
            failure.text = _clean("\n".join([run.hypothesis, *lines]))
    if run.status != "skipped":
        output = ET.SubElement(case, "system-out")
        shown = ((kind.title, figures.printed(kind, run.figures)) for kind in KINDS)
        output.text = "\n".join(f"{title}: {found}" for title, found in shown if found != NOT_SEEN)


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("�", text)
