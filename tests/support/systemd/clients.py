"""A program with the clients of a deployment; its arguments are the host:port of Envoy and Triton.

They send requests until they are killed or standard input ends. For each line of it they print,
as JSON, how many unary requests and streams were answered so far and which failed; and again at
its end, when no request is in flight.
"""

import asyncio
import json
import sys

from sidecar.local.load import Load, LoadTally, load


async def main(envoy: str, triton: str) -> None:
    """Send requests, and report."""
    async with load(envoy, triton, unary=8, streams=4) as running:
        while await asyncio.to_thread(sys.stdin.readline):
            _report(running)
    _report(running)


def _report(of: Load) -> None:
    print(json.dumps({"unary": _outcome(of.unary), "streams": _outcome(of.streams)}), flush=True)


def _outcome(tally: LoadTally) -> dict[str, object]:
    failed = [each.what for each in (*tally.failed, *tally.wrong)]
    return {"done": len(tally.done), "failed": failed}


asyncio.run(main(*sys.argv[1:]))
