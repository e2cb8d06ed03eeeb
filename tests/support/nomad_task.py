"""What Nomad runs for a task with one command, without Nomad, which no package registry has.

Its templates are rendered, and what Nomad's runtime variables stand for is filled in.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support import jobspec

_FOLDERS = {"NOMAD_TASK_DIR": "local", "NOMAD_SECRETS_DIR": "secrets", "NOMAD_ALLOC_DIR": "alloc"}
_VARIABLE = re.compile(r"\{\{ with nomadVar .*\}\}")


@dataclass(frozen=True)
class NomadTask:
    """A command line, and the variables that Nomad adds to its environment."""

    command: tuple[str, ...]
    env: Mapping[str, str]


def rendered(job: Path, folder: Path, variable: str) -> NomadTask:
    """The only task of a job file, with its files in `folder`; a Nomad variable has a value."""
    [task] = jobspec.read(job).inside("task")
    folders = {name: str(folder / place) for name, place in _FOLDERS.items()}
    for place in _FOLDERS.values():
        (folder / place).mkdir(parents=True)
    for template in task.inside("template"):
        text = _VARIABLE.sub(variable, str(template.attributes["data"]))
        (folder / str(template.attributes["destination"])).write_text(text, encoding="utf-8")
    [config], [env] = task.inside("config"), task.inside("env")
    arguments = (config.attributes["command"], *config.attributes["args"])
    given = {name: _filled(str(value), folders) for name, value in env.attributes.items()}
    return NomadTask(tuple(_filled(each, folders) for each in arguments), folders | given)


def _filled(text: str, folders: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: folders[found[1]], text)
