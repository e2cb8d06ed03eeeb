"""Clients of a deployment, as a program; its arguments are Envoy and Triton, both as host:port.

They send until they are killed or standard input ends. For each line of standard input they print,
as JSON, how many unary requests and streams were answered so far and which failed; and once more at
its end, when no request is in flight.
"""

import asyncio
import json
import sys

from sidecar.local.load import Load, LoadTally, load


async def main(envoy: str, triton: str) -> None:
    """Send, and tell."""
    async with load(envoy, triton, unary=8, streams=4) as running:
        while await asyncio.to_thread(sys.stdin.readline):
            _tell(running)
    _tell(running)


def _tell(of: Load) -> None:
    print(json.dumps({"unary": _fate(of.unary), "streams": _fate(of.streams)}), flush=True)


def _fate(tally: LoadTally) -> dict[str, object]:
    failed = [each.what for each in (*tally.failed, *tally.wrong)]
    return {"done": len(tally.done), "failed": failed}


asyncio.run(main(*sys.argv[1:]))
