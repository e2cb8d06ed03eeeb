"""Undoes what a drill changed in a mesh, as commands that a dead man's switch can run.

    python -m sidecar.drill.stage.undo FOLDER consul METHOD PATH [BASE64]
    python -m sidecar.drill.stage.undo FOLDER triton INSTANCE MODEL VERB

Acts: asyncio.
"""

import asyncio
import base64
import sys
from collections.abc import Sequence
from pathlib import Path

from sidecar.drill.stage.mesh import MeshStage


def consul(stage: MeshStage, method: str, path: str, body: bytes | None = None) -> Sequence[str]:
    """The command for a request to Consul, below `/v1/`; the system limits `body` to 90 KiB."""
    sent = () if body is None else (base64.b64encode(body).decode(),)
    return _command(stage, "consul", method, path, *sent)


def triton(stage: MeshStage, instance: str, model: str, verb: str) -> Sequence[str]:
    """The command that has an instance's Triton `load` or `unload` a model."""
    return _command(stage, "triton", instance, model, verb)


def file(path: Path) -> Sequence[str]:
    """The command that removes a file."""
    return ("rm", "-f", "--", str(path.absolute()))


def _command(stage: MeshStage, *arguments: str) -> Sequence[str]:
    module = "sidecar.drill.stage.undo"
    return (sys.executable, "-m", module, str(stage.folder.absolute()), *arguments)


async def _main(folder: str, what: str, *arguments: str) -> None:
    stage = MeshStage(Path(folder))
    if what == "consul":
        method, path, *sent = arguments
        await stage.consul(method, path, *map(base64.b64decode, sent))
    else:
        await stage.repository(*arguments)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
