"""Headers with secret values: validation, and reading them from files."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr

from sidecar.runtime import credentials

# A gRPC metadata key with a text value; HTTP/2 header names are lower case.
_KEY = r"[a-z0-9_.-]+"
_GRPCS = ("grpc-", "content-type", "user-agent", "te")  # gRPC sets these itself


def _name(name: object) -> str:
    key = str(name).lower()
    if not re.fullmatch(_KEY, key) or key.startswith(_GRPCS[0]) or key in _GRPCS:
        raise ValueError("expected names of headers that gRPC does not set itself")
    if key.endswith("-bin"):
        raise ValueError(f"{key:.80}: expected a header of text, and no -bin")
    return key


def _values(value: object) -> object:
    """Validate the table as a whole: pydantic's error for a single value would quote it."""
    if not isinstance(value, Mapping):
        raise ValueError("expected a table of headers, found something else")
    found = {}
    for name, text in value.items():
        text = text.get_secret_value() if isinstance(text, SecretStr) else text
        if not isinstance(text, str) or not text or not (text.isascii() and text.isprintable()):
            raise ValueError(f"{name!s:.80}: expected printable ASCII on a single line")
        found[_name(name)] = text
    return found


def _files(value: object) -> object:
    if not isinstance(value, Mapping):
        raise ValueError("expected a table of headers and files, found something else")
    return {_name(name): path for name, path in value.items()}


Headers = Annotated[dict[str, SecretStr], BeforeValidator(_values), Field(default={})]
HeaderFiles = Annotated[dict[str, Path], BeforeValidator(_files), Field(default={})]


def read(headers: Mapping[str, SecretStr], files: Mapping[str, Path], key: str) -> dict[str, str]:
    """The headers to send; `key` names the files' setting in errors.

    Raises:
        ConfigError: a file cannot be read, or does not hold a valid header value.
    """
    given = {name: value.get_secret_value() for name, value in headers.items()}
    return given | {
        name: credentials.read_token(path, f"{key}.{name}") for name, path in files.items()
    }
