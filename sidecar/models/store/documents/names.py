"""The names of snapshots as people write them: `chat`, `chat:v3`, `chat@sha256:…`. Pure."""

import re
from dataclasses import dataclass

from sidecar.runtime.errors import ConfigError

# A model's name is a folder's name; the rest is what registries of containers allow.
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_TAG = _MODEL
_WORD = "at most 128 letters, digits, `.`, `_` and `-`"
_PREFIX = re.compile(r"[0-9a-f]{8,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ALGORITHM = "sha256:"


@dataclass(frozen=True, slots=True)
class Reference:
    """A model, and with `tag` or `digest` one of its snapshots; `digest` may be a prefix."""

    model: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        if self.digest:
            return f"{self.model}@{_ALGORITHM}{self.digest}"
        return f"{self.model}:{self.tag}" if self.tag else self.model


def reference(text: str) -> Reference:
    """A name as people write it.

    Raises:
        ConfigError: it is not one.
    """
    model, at, digest = text.partition("@")
    model, colon, tag = model.partition(":")
    hexadecimal = digest.removeprefix(_ALGORITHM)
    if at and (colon or not digest.startswith(_ALGORITHM) or not _PREFIX.fullmatch(hexadecimal)):
        raise _mistake("MODEL@sha256:DIGEST with 8 to 64 hex digits", text)
    if colon and not _TAG.fullmatch(tag):
        raise _mistake(f"MODEL:TAG with a tag of {_WORD}", text)
    if not is_model(model):
        wanted = f"MODEL, MODEL:TAG or MODEL@sha256:DIGEST with a model's name of {_WORD}"
        raise _mistake(wanted, text)
    return Reference(model, tag, hexadecimal)


def is_model(name: str) -> bool:
    """Whether a model in a store may have this name."""
    return bool(_MODEL.fullmatch(name))


def is_tag(name: str) -> bool:
    """Whether a tag may have this name."""
    return bool(_TAG.fullmatch(name))


def is_digest(text: str) -> bool:
    """Whether this is a whole SHA-256 in hex digits."""
    return bool(_DIGEST.fullmatch(text))


def of_digest(digest: str) -> str:
    """A digest for people and programs: `sha256:` and 64 hex digits."""
    return f"{_ALGORITHM}{digest}"


def digest_of(text: str) -> str:
    """The 64 hex digits of a whole digest, with or without `sha256:`.

    Raises:
        ConfigError: it is not one.
    """
    found = text.removeprefix(_ALGORITHM)
    if not is_digest(found):
        raise _mistake("sha256: and 64 hex digits", text)
    return found


def _mistake(wanted: str, found: str) -> ConfigError:
    return ConfigError(f"expected {wanted}, found {found!r:.100}")
