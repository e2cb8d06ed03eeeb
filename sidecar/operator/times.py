"""Parses points in time as people write them. Pure."""

import re
from datetime import datetime, timedelta


def parse_time(text: str, now: datetime) -> float:
    """Unix seconds of an ISO 8601 time, with a zone or local, or of the next HH:MM.

    Args:
        text: the time as written.
        now: in local time, without a zone, so that a change to summer time counts.

    Raises:
        ValueError: it is neither, or in the past.
    """
    if match := re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text.strip()):
        found = now.replace(hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0)
        return (found if found > now else found + timedelta(days=1)).timestamp()
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            "expected a time such as 03:00, 2026-01-31T03:00 or 2026-01-31T03:00+01:00"
        ) from None
    if found.timestamp() <= now.timestamp():
        raise ValueError("expected a time to come")
    return found.timestamp()
