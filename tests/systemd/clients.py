"""Clients of a deployment: `python -m tests.systemd.clients ENVOY TRITON`, both as host:port.

They send until they are killed. For each line of standard input they say, as JSON, what has become
of their requests so far: how many were answered, and what failed, of single ones and of streams.
"""

import asyncio
import json
import sys

from sidecar.local.load import Tally, load


async def main(envoy: str, triton: str) -> None:
    """Send, and tell."""
    async with load(envoy, triton, unary=8, streams=4) as running:
        while await asyncio.to_thread(sys.stdin.readline):
            told = {"unary": _told(running.unary), "streams": _told(running.streams)}
            print(json.dumps(told), flush=True)


def _told(tally: Tally) -> dict[str, object]:
    failed = [each.what for each in (*tally.failed, *tally.wrong)]
    return {"done": len(tally.done), "failed": failed}


asyncio.run(main(*sys.argv[1:]))
