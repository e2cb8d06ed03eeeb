"""A client whose request kills the Triton that works on it, and which sends it again and again.

Acts: asyncio, tritonclient.
"""

import asyncio
from contextlib import suppress

import numpy as np
from tritonclient.grpc import aio

from sidecar.drill.misbehaving_models import MORTAL
from sidecar.local.demo_questions import FAILED

_DEADLY = b"die"  # see triton_models/mortal/1/model.py
_DEADLINE = 30.0
_PAUSE = 0.05


async def send_deadly_requests(address: str) -> None:
    """Send it until cancelled, each time on a new connection, whatever the answer is."""
    question = aio.InferInput("text", [1], "BYTES")
    question.set_data_from_numpy(np.array([_DEADLY], dtype=np.object_))
    while True:
        async with aio.InferenceServerClient(address) as client:
            with suppress(*FAILED):
                await client.infer(MORTAL, [question], client_timeout=_DEADLINE)
        await asyncio.sleep(_PAUSE)
