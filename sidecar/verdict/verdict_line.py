"""The line that tells a verdict: programs read its codes, people all of it. Pure.

`STATE REASON_CODE`, or `STATE REASON_CODE: detail`, is the first line of what the check shows that
a sidecar pushes. The codes are a protocol between versions, and stay; nothing reads the detail.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from sidecar.verdict.evidence import Reason


class State(StrEnum):
    """What the instance may be used for. PASSING and WARNING receive traffic."""

    STARTING = "starting"
    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    DRAINING = "draining"
    MAINTENANCE = "maintenance"
    COLD = "cold"


@dataclass(frozen=True, slots=True)
class ParsedLine:
    """What such a line says; `reason` is None for a code that only newer versions know."""

    state: State
    reason: Reason | None
    detail: str = ""


_STATES = {state.upper(): state for state in State}
_REASONS = {reason.value: reason for reason in Reason}
_LINE = re.compile(r"(?P<state>[A-Z]+) (?P<reason>[A-Z][A-Z0-9_]*)(: (?P<detail>.+))?")


def write(state: State, reason: Reason, detail: str = "") -> str:
    """The line of a verdict, without line breaks whatever the detail holds."""
    words = " ".join(detail.split())
    return f"{state.upper()} {reason}" + (f": {words}" if words else "")


def parse(output: str) -> ParsedLine | None:
    """What the first line of an output says, or None if it is not such a line."""
    found = _LINE.fullmatch(output.partition("\n")[0])
    state = _STATES.get(found["state"]) if found else None
    if found is None or state is None:
        return None
    return ParsedLine(state, _REASONS.get(found["reason"]), found["detail"] or "")
