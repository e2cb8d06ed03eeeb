"""The identity of a model set: which of its contents count, and its digest. Pure.

A digest starts with how it was made, `files-` or `triton-`. Digests of different kinds cannot be
compared, even if the sets are equal.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from sidecar.triton import model_config

_VERSION = re.compile(r"0|[1-9][0-9]*")
_BYTECODE = "__pycache__"
# Canaries recorded for the sidecar next to a model; Triton does not read them.
_CANARY = re.compile(r"canary\.toml|canary\.[A-Za-z0-9_%.-]+\.npy")


class DescribedModel(Protocol):
    """The identity of a model: name, versions, and the configuration as Triton serialises it."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions that are loaded."""

    @property
    def config(self) -> bytes:
        """The configuration without the fields for its host, serialised deterministically."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model by its files: each path below the model's folder, and the SHA-256 of its content."""

    name: str
    versions: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which of a model's versions Triton loads: the `latest` n, `specific` ones, or all."""

    latest: int | None = None
    specific: tuple[str, ...] | None = None

    def chosen(self, available: Iterable[str]) -> tuple[str, ...]:
        """The available versions that Triton loads, in order."""
        found = in_order(available)
        if self.specific is not None:
            return tuple(version for version in found if version in self.specific)
        return found if self.latest is None else found[max(0, len(found) - self.latest) :]


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The parts of a config.pbtxt that count.

    `steps` are the models of an ensemble. `content` is a digest without comments and the fields for
    the host; empty if there is no file. Without a config.pbtxt Triton generates a config, with the
    default policy.
    """

    policy: VersionPolicy = VersionPolicy(latest=1)
    steps: tuple[str, ...] = ()
    content: str = ""


def digest(models: Iterable[DescribedModel]) -> str:
    """The set's digest by Triton's descriptions: `triton-` and 16 hex digits; order-independent."""
    total = hashlib.sha256()
    for model in sorted(models, key=lambda model: model.name):
        for part in (model.name.encode(), *map(str.encode, sorted(model.versions)), model.config):
            total.update(len(part).to_bytes(8, "big") + part)
        total.update(b"\n")
    return f"triton-{total.hexdigest()[:16]}"


def files_digest(models: Iterable[ModelFiles]) -> str:
    """The set's digest by its files: `files-` and 16 hex digits; order-independent."""
    rows = sorted((model.name, in_order(model.versions), sorted(model.files)) for model in models)
    return f"files-{hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]}"


def in_order(versions: Iterable[str]) -> tuple[str, ...]:
    """Versions from the lowest to the highest."""
    return tuple(sorted(versions, key=int))


def is_version(name: str) -> bool:
    """Whether a folder of this name in a model's folder is one of its versions."""
    return bool(_VERSION.fullmatch(name))


def is_canary(name: str) -> bool:
    """Whether a file of this name in a model's folder is a canary, or belongs to one."""
    return bool(_CANARY.fullmatch(name))


def counts(path: tuple[str, ...], versions: Iterable[str]) -> bool:
    """Whether a file or folder may affect the model's answers.

    Everything may, because a Python model can read any file; except hidden files, Python bytecode,
    canaries recorded for the sidecar, and versions that are not loaded.

    Args:
        path: the names below the model's folder; every folder on the way counts.
        versions: the loaded versions.
    """
    if any(name.startswith(".") or name == _BYTECODE for name in path):
        return False
    if path[-1].endswith(".pyc") or (len(path) == 1 and is_canary(path[0])):
        return False
    return not is_version(path[0]) or path[0] in versions


def config_file(config: Any) -> ConfigFile:
    """The parts of a `ModelConfig` that count, as Triton interprets it."""
    steps = model_config.steps(config)
    if not config.HasField("version_policy"):
        return ConfigFile(steps=steps)
    policy = config.version_policy
    match policy.WhichOneof("policy_choice"):
        case "latest":
            return ConfigFile(VersionPolicy(latest=policy.latest.num_versions), steps)
        case "specific":
            versions = tuple(map(str, policy.specific.versions))
            return ConfigFile(VersionPolicy(specific=versions), steps)
        case _:
            return ConfigFile(VersionPolicy(), steps)
