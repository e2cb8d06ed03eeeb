"""Durations as written in settings files."""

import pytest

from sidecar.settings.values import parse_duration


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("500ms", 0.5),
        ("1s", 1.0),
        ("1.5s", 1.5),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("2d", 172800.0),
        (3, 3.0),
        ("4", 4),
    ],
)
def test_durations(given: object, seconds: float) -> None:
    assert parse_duration(given) == seconds


@pytest.mark.parametrize("given", ["", "s", "1 week", "-1s", None, True, "1e3s"])
def test_invalid_durations(given: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(given)
