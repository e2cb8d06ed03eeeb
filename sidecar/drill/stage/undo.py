"""Undoes what a drill changed in a mesh, as commands that a dead man's switch can run.

    python -m sidecar.drill.stage.undo FOLDER consul METHOD PATH
    python -m sidecar.drill.stage.undo FOLDER triton INSTANCE MODEL VERB
    python -m sidecar.drill.stage.undo FOLDER limits PID...

Acts: asyncio.
"""

import asyncio
import resource
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from sidecar.drill.stage.mesh import MeshStage


def consul(stage: MeshStage, method: str, path: str) -> Sequence[str]:
    """The command for a request to Consul, below `/v1/`."""
    return _command(stage, "consul", method, path)


def triton(stage: MeshStage, instance: str, model: str, verb: str) -> Sequence[str]:
    """The command that has an instance's Triton `load` or `unload` a model."""
    return _command(stage, "triton", instance, model, verb)


def limits(stage: MeshStage, pids: Iterable[int]) -> Sequence[str]:
    """The command that lets processes write files of any size again, as far as they exist."""
    return _command(stage, "limits", *map(str, pids))


def file(path: Path) -> Sequence[str]:
    """The command that removes a file."""
    return ("rm", "-f", "--", str(path.absolute()))


def _command(stage: MeshStage, *arguments: str) -> Sequence[str]:
    module = "sidecar.drill.stage.undo"
    return (sys.executable, "-m", module, str(stage.folder.absolute()), *arguments)


async def _main(folder: str, what: str, *arguments: str) -> None:
    stage = MeshStage(Path(folder))
    if what == "consul":
        await stage.consul(*arguments)
    elif what == "triton":
        await stage.repository(*arguments)
    else:
        _unlimit(map(int, arguments))


def _unlimit(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # its supervisor starts another without the limit
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
