"""The baseline of an election: `consul lock`, with which one of several programs runs."""

import asyncio
import os
import shlex
import signal
import time
from pathlib import Path

from sidecar.local.programs.parts import find
from sidecar.runtime.errors import Unavailable

DESCRIPTION = "`consul lock` with its defaults: session TTL 15 s, lock-delay 15 s, no health checks"
_PATIENCE = 120.0


async def takeover(address: str, folder: Path) -> float:
    """Seconds from SIGKILL to the lock's holder until the other contender runs its program.

    Raises:
        Unavailable: it does not take over.
    """
    contenders = [await _contend(address, folder / f"contender-{n}") for n in range(2)]
    try:
        first = await _until_held(folder, 1)
        began = time.monotonic()
        os.killpg(contenders[int(first.name[-1])].pid, signal.SIGKILL)
        await _until_held(folder, 2)
        return time.monotonic() - began
    finally:
        for contender in contenders:
            if contender.returncode is None:
                os.killpg(contender.pid, signal.SIGKILL)
            await contender.wait()


async def _contend(address: str, mark: Path) -> asyncio.subprocess.Process:
    held = f"touch {shlex.quote(str(mark))}; exec sleep 600"
    return await asyncio.create_subprocess_exec(
        *(str(find("consul")), "lock", f"-http-addr={address}", "benchmarks/lock", held),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )


async def _until_held(folder: Path, count: int) -> Path:
    """Wait until `count` contenders have held the lock; returns the last of them."""
    deadline = time.monotonic() + _PATIENCE
    while len(marks := _marks(folder)) < count:
        if time.monotonic() > deadline:
            raise Unavailable(f"nobody took the lock within {_PATIENCE:g} s")
        await asyncio.sleep(0.02)
    return marks[-1]


def _marks(folder: Path) -> list[Path]:
    """The marks of the contenders that have held the lock, in order."""
    return sorted(folder.glob("contender-*"), key=lambda mark: mark.stat().st_mtime)
