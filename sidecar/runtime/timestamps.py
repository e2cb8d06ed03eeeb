"""Moments as text. Pure."""

from datetime import UTC, datetime


def timestamp(wall: float) -> str:
    """Unix seconds as RFC 3339 has them: in UTC, to the millisecond, so that it sorts by time."""
    text = datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
