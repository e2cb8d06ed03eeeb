"""The rules of the model set watch. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ModelSetRules:
    """Which models make up the set, and where their files are.

    `repository` is Triton's model repository, None where only Triton sees it; `interval` is the
    seconds between two scans of its files. `depends_on` names the models that a model calls itself,
    which no file shows.
    """

    models: tuple[str, ...]
    repository: Path | None = None
    interval: float = 30.0
    depends_on: Mapping[str, Sequence[str]] = field(default_factory=dict)
