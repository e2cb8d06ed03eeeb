"""Reads the limits of `model gc`, which are the same as those of settings."""

from sidecar.runtime.errors import ConfigError
from sidecar.settings.tables.gpu import parse_bytes, parse_floor
from sidecar.settings.values import parse_duration

_SHORTEST = 60.0  # seconds


def grace(text: str) -> float:
    """Seconds from a duration such as `24h`.

    Raises:
        ConfigError: it is none.
    """
    try:
        found = parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"--grace: {error}, found {text!r:.80}") from None
    if found < _SHORTEST:
        raise ConfigError(f"--grace: expected at least 1m, for pushes at work, found {text!r:.80}")
    return found


def share(text: str | None) -> float | None:
    """A part of a disk, from 0 to 1, from a percentage; raises as `grace` does."""
    if text is None:
        return None
    try:
        found = parse_floor(text)
    except ValueError:
        found = None
    if found is None or not found.percent:
        raise ConfigError(f"--until-free: expected a percentage such as 20%, found {text!r:.80}")
    return found.amount / 100


def size(text: str | None) -> int | None:
    """Bytes from a size such as `500GB`; raises as `grace` does."""
    if text is None:
        return None
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise ConfigError(f"--max-size: {error}, found {text!r:.80}") from None
