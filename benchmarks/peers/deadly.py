"""A client whose request kills the Triton that executes it: it sends it a few times, and ends.

python -m benchmarks.peers.deadly HOST:PORT
"""

import asyncio
import sys

import grpc.aio
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

from tests.support.mesh.mesh_clients import text

_TIMES, _EVERY = 5, 3.0  # how often, and how many seconds apart
_DEADLINE = 10.0


async def send(address: str) -> None:
    """Send it, each time on a new connection, as a client that was started again would."""
    for _ in range(_TIMES):
        async with aio.InferenceServerClient(address) as client:
            try:
                await client.infer("mortal", [text("text", "die")], client_timeout=_DEADLINE)
            except (InferenceServerException, grpc.aio.AioRpcError) as error:
                print(error, flush=True)
        await asyncio.sleep(_EVERY)


if __name__ == "__main__":
    asyncio.run(send(sys.argv[1]))
