"""The identity of a set of models. Pure."""

import hashlib
from collections.abc import Iterable
from typing import Protocol


class Described(Protocol):
    """What counts of a model: name, versions and the configuration as Triton serialises it."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions that are loaded."""

    @property
    def config(self) -> bytes:
        """The configuration, serialised deterministically."""


def digest(models: Iterable[Described]) -> str:
    """The set's digest, 16 hex digits; equal sets have equal digests whatever their order."""
    total = hashlib.sha256()
    for model in sorted(models, key=lambda model: model.name):
        for part in (model.name.encode(), *map(str.encode, sorted(model.versions)), model.config):
            total.update(len(part).to_bytes(8, "big") + part)
        total.update(b"\n")
    return total.hexdigest()[:16]
