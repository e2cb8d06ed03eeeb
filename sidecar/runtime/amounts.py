"""Amounts of bytes for people. Pure."""

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_STEP = 1000


def in_bytes(size: float) -> str:
    """Bytes in a unit that suits them, such as `12.3 GB`; a kB is 1000 bytes."""
    unit = 0
    while size >= _STEP and unit + 1 < len(_UNITS):
        size, unit = size / _STEP, unit + 1
    digits = 1 if unit and size < _STEP else 0
    return f"{size:.{digits}f} {_UNITS[unit]}"
