"""What Consul itself writes into the output of a check. Pure.

It has no codes for these, so its words have to do; no other module knows them. They are the same in
1.8.7 and in 1.23.0-dev. Source: agent/checks/check.go of Consul.
"""

import re

# Once nobody has renewed a TTL check: alone, or before the output that it was given last.
_LAPSED = re.compile(r"TTL expired(?:[^:]*: )?")
# What a poll by gRPC that went well leaves.
_POLLED_WELL = re.compile(r"gRPC check .*: success", re.DOTALL)
# Behind an output that is longer than the agent's check_output_max_size.
_CUT = re.compile(r" \.\.\. \(captured \d+ of \d+ bytes\)$")


def has_lapsed(output: str) -> bool:
    """Whether a TTL check is critical because nobody has renewed it."""
    return _LAPSED.match(output) is not None


def polled_well(output: str) -> bool:
    """Whether an output is of a poll that went well, whatever the check's status is now."""
    return _POLLED_WELL.fullmatch(output) is not None


def before_lapse(output: str) -> str:
    """What a TTL check was given last, whether it has lapsed since or not."""
    return _LAPSED.sub("", output, count=1) if has_lapsed(output) else output


def uncut(output: str) -> str:
    """An output without the note that something of it is missing."""
    return _CUT.sub("", output)
