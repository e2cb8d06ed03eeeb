"""The document by which a folder is known as a store: a mount may be missing. Pure."""

import json

from sidecar.models.store.documents import fields
from sidecar.runtime.errors import ConfigError, Rejected

KEY = "store.json"
FORMAT = 1  # of the layout
LARGEST = 2**16  # bytes


def dump() -> bytes:
    """The marker of this version's layout."""
    return json.dumps({"format": FORMAT}).encode()


def check(place: str, document: bytes) -> None:
    """Check the marker of a place.

    Raises:
        ConfigError: it is none, or of a later layout.
    """
    try:
        found = fields.whole(fields.tree(document), "format")
    except Rejected as error:
        raise ConfigError(f"{place}/{KEY}: expected the marker of a store: {error}") from error
    if found != FORMAT:
        raise ConfigError(
            f"{place}/{KEY}: expected format {FORMAT}, found format {found}: a later version of "
            "triton-sidecar made this store"
        )


def missing(place: str) -> ConfigError:
    """The error of a place that is no store."""
    return ConfigError(
        f"{place}: expected a store, found no {KEY}; is it mounted? The first push makes a store, "
        "in an empty folder"
    )
