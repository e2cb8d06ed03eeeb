"""The text that Consul itself writes into a check's output. Pure.

Consul has no codes for these, so its text must do; no other module knows it. It is the same in
1.8.7 and 1.23.0-dev. Source: agent/checks/check.go of Consul.
"""

import re

# After a TTL check was not renewed: alone, or before its last output.
_LAPSED = re.compile(r"TTL expired(?:[^:]*: )?")
# The output of a successful gRPC poll.
_POLLED_WELL = re.compile(r"gRPC check .*: success", re.DOTALL)
# Appended to an output longer than the agent's check_output_max_size.
_CUT = re.compile(r" \.\.\. \(captured \d+ of \d+ bytes\)$")


def has_lapsed(output: str) -> bool:
    """Whether a TTL check is critical because it was not renewed."""
    return _LAPSED.match(output) is not None


def polled_well(output: str) -> bool:
    """Whether an output is of a successful poll, whatever the check's status is now."""
    return _POLLED_WELL.fullmatch(output) is not None


def before_lapse(output: str) -> str:
    """The last output given to a TTL check, whether or not it has lapsed since."""
    return _LAPSED.sub("", output, count=1) if has_lapsed(output) else output


def uncut(output: str) -> str:
    """An output without Consul's note that it was truncated."""
    return _CUT.sub("", output)
