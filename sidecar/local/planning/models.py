"""The models of a local mesh: the demo models, and folders named by the user.

Acts: through what it imports or is given.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sidecar.local import assets
from sidecar.local.planning.plan import MODELS, ModelSource
from sidecar.runtime.errors import ConfigError, words


def find(folders: Sequence[Path], *, demo: bool = True) -> dict[str, ModelSource]:
    """The models to serve, by name.

    Args:
        folders: models besides the demo models; one with the name of a demo model replaces it.
            The name is the folder's, as for Triton.
        demo: whether the demo models are served.

    Raises:
        ConfigError: a folder holds no model, or there is no model at all.
        PartMissing: the demo models are missing.
    """
    found = {name: read(assets.folder("triton_models") / name) for name in MODELS if demo}
    given: dict[str, ModelSource] = {}
    for folder in folders:
        if folder.name in given:
            raise ConfigError(f"--models {folder}: expected one model of the name {folder.name}")
        given[folder.name] = read(folder)
    if not found and not given:
        raise ConfigError("--only-models: expected --models with the folder of a model")
    return found | given


def read(folder: Path) -> ModelSource:
    """The model in a folder.

    Raises:
        ConfigError: it has no config.pbtxt, or no canary.toml with a table `[canary.NAME]`.
    """
    if not (folder / "config.pbtxt").is_file():
        raise ConfigError(f"{folder}: expected the folder of a model, with a config.pbtxt")
    path = folder / "canary.toml"
    try:
        document: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        canary = document["canary"][folder.name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        wanted = f"a table [canary.{folder.name}]"
        raise ConfigError(f"{path}: expected {wanted}: {words(error)}") from error
    if not isinstance(canary, dict):
        raise ConfigError(f"{path}: canary.{folder.name}: expected a table, found {canary!r}")
    return ModelSource(folder, canary)
