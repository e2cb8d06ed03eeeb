"""For processes that end with the one that started them.

Acts: asyncio.
"""

import asyncio
import sys


async def parent_ended() -> None:
    """Wait until standard input is closed, which happens at the latest when the parent ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()
