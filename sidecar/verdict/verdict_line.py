"""The verdict line: programs read its codes, people all of it. Pure.

`STATE REASON_CODE`, or `STATE REASON_CODE: detail`, is the first line of the output of the check
that a sidecar updates. The codes are a stable protocol between versions; no program reads the
detail.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from sidecar.verdict.evidence import Reason


class State(StrEnum):
    """The state of an instance. PASSING and WARNING receive traffic."""

    STARTING = "starting"
    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    DRAINING = "draining"
    MAINTENANCE = "maintenance"
    COLD = "cold"


@dataclass(frozen=True, slots=True)
class ParsedLine:
    """A parsed verdict line; `reason` is None for a code that only newer versions know."""

    state: State
    reason: Reason | None
    detail: str = ""


_STATES = {state.upper(): state for state in State}
_REASONS = {reason.value: reason for reason in Reason}
_LINE = re.compile(r"(?P<state>[A-Z]+) (?P<reason>[A-Z][A-Z0-9_]*)(: (?P<detail>.+))?")


def write(state: State, reason: Reason, detail: str = "") -> str:
    """The line of a verdict; line breaks in the detail become spaces."""
    words = " ".join(detail.split())
    return f"{state.upper()} {reason}" + (f": {words}" if words else "")


def parse(output: str) -> ParsedLine | None:
    """The verdict line at the start of an output, or None if there is none."""
    found = _LINE.fullmatch(output.partition("\n")[0])
    state = _STATES.get(found["state"]) if found else None
    if found is None or state is None:
        return None
    return ParsedLine(state, _REASONS.get(found["reason"]), found["detail"] or "")
