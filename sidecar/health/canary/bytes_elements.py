"""BYTES elements as settings and JSON write them: text, or a table for other bytes. Pure.

`{ hex = "80 01 fe" }` and `{ base64 = "gAH+" }` are the same three bytes.
"""

import base64
import binascii
from collections.abc import Callable, Mapping

_SHORT = 32  # bytes; up to here they are written in hex, which people can read
_FORM = 'expected bytes as { hex = "80 01 fe" } or as { base64 = "gAH+" }'


def _of_base64(text: str) -> bytes:
    return base64.b64decode("".join(text.split()), validate=True)


_DECODERS: Mapping[str, Callable[[str], bytes]] = {"hex": bytes.fromhex, "base64": _of_base64}


def written(element: bytes) -> str | dict[str, str]:
    """An element's written form; different elements have different forms."""
    try:
        return element.decode()
    except UnicodeDecodeError:
        pass
    if len(element) <= _SHORT:
        return {"hex": element.hex(" ")}
    return {"base64": base64.b64encode(element).decode()}


def is_blob(value: object) -> bool:
    """Whether a value has the form of bytes in a table."""
    return isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in _DECODERS


def read(value: object) -> object:
    """The bytes written in a table; any other value unchanged.

    Raises:
        ValueError: it is a table, but not one of bytes.
    """
    if not isinstance(value, Mapping):
        return value
    for key, decode in _DECODERS.items():
        if [*value] == [key] and isinstance(text := value[key], str):
            try:
                return decode(text)
            except (ValueError, binascii.Error):
                break
    raise ValueError(_FORM)


def encoded(element: str | bytes) -> bytes:
    """An element's bytes: text in UTF-8."""
    return element if isinstance(element, bytes) else element.encode()


def is_element(value: object) -> bool:
    """Whether a value can be sent: bytes, or text without lone surrogates."""
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    return isinstance(value, bytes)
