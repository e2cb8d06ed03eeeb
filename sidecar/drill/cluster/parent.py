"""Processes that end with the one that started them: their own side, and that of their parent.

Acts: asyncio, subprocess.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import IO

from sidecar.runtime.errors import Unavailable


@asynccontextmanager
async def child(
    command: Sequence[str],
    what: str,
    *,
    patience: float,
    env: Mapping[str, str] | None = None,
    stderr: IO[bytes] | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that runs while the context lasts, which begins when it has said its first line.

    Args:
        command: what it is started with; it waits for `parent_ended`.
        what: names it in the error.
        patience: seconds until its first line.
        env: its environment; None for this process's.
        stderr: where it complains; None for where this process does.

    Raises:
        Unavailable: it does not start.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
    )
    try:
        first = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                first = await process.stdout.readline() if process.stdout else b""
        if not first:
            raise Unavailable(f"{what} did not start")
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def parent_ended() -> None:
    """Wait until standard input is closed, which happens at the latest when the parent ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()
