"""Timestamps as text. Pure."""

from datetime import UTC, datetime


def timestamp(wall: float) -> str:
    """Unix seconds in the form of RFC 3339: UTC, with milliseconds, so that it sorts by time."""
    text = datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
