"""Load on a mesh like that of its users: plain `tritonclient` over one gRPC address.

Closed loop: each client sends its next request when it has its answer, or after a pause. Every
answer is compared with that of the mesh's first Triton, which is sent each prompt once, directly.

Acts: asyncio, time, tritonclient.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tritonclient.grpc import aio

from sidecar.local import demo_questions
from sidecar.local.demo_questions import FAILED, PROMPTS, Question, RightAnswers
from sidecar.local.demo_questions import STREAM as STREAM
from sidecar.local.demo_questions import UNARY as UNARY


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that failed or was wrong, `at` seconds on the monotonic clock."""

    at: float
    what: str


@dataclass(slots=True)
class LoadTally:
    """The outcomes of requests of one kind. `done` has when each was sent and its duration."""

    done: list[tuple[float, float]] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    wrong: list[Failure] = field(default_factory=list)

    @property
    def sent(self) -> int:
        """The number of requests that ended, whatever their outcome."""
        return len(self.done) + len(self.failed) + len(self.wrong)

    def between(self, start: float, end: float) -> "LoadTally":
        """The outcomes of the requests that ran within the span from `start` to `end`."""
        return LoadTally(
            [(sent, took) for sent, took in self.done if sent + took >= start and sent < end],
            [failure for failure in self.failed if start <= failure.at < end],
            [failure for failure in self.wrong if start <= failure.at < end],
        )

    def quantile(self, share: float) -> float:
        """The time in seconds that a `share` of the answered requests did not exceed; or NaN."""
        times = sorted(took for _, took in self.done)
        return times[min(len(times) - 1, int(len(times) * share))] if times else float("nan")

    @property
    def slowest(self) -> float:
        """The longest time in seconds until an answer, or NaN."""
        return max((took for _, took in self.done), default=float("nan"))


@dataclass(slots=True)
class Load:
    """Running load."""

    unary: LoadTally = field(default_factory=LoadTally)
    streams: LoadTally = field(default_factory=LoadTally)


@asynccontextmanager
async def load(
    address: str, reference: str, *, unary: int, streams: int, pause: float = 0.0
) -> AsyncIterator[Load]:
    """Keep `unary` + `streams` clients busy on `address` while the context lasts.

    At its end, requests in flight are finished and counted.

    Args:
        address: host:port that the clients talk to.
        reference: host:port of a Triton whose answers count as right.
        unary: clients that send one request after the other.
        streams: clients that run one generation after the other.
        pause: seconds between an answer and the client's next request.
    """
    running = Load()
    right = await demo_questions.right_answers(reference)
    ending = asyncio.Event()
    clients = [
        asyncio.create_task(_client(address, number, question, tally, right, ending, pause))
        for question, tally, count in (
            (demo_questions.ask, running.unary, unary),
            (demo_questions.generate, running.streams, streams),
        )
        for number in range(count)
    ]
    try:
        yield running
    finally:
        ending.set()
        await asyncio.gather(*clients)


async def _client(
    address: str,
    number: int,
    question: Question,
    tally: LoadTally,
    right: RightAnswers,
    ending: asyncio.Event,
    pause: float,
) -> None:
    async with aio.InferenceServerClient(address) as client:
        turn = number
        while not ending.is_set():
            prompt = PROMPTS[turn % len(PROMPTS)]
            turn += 1
            sent = time.monotonic()
            try:
                answer = await question(client, prompt)
            except FAILED as error:
                tally.failed.append(Failure(time.monotonic(), demo_questions.complaint(error)))
                await asyncio.sleep(0.05)  # a client does not hammer after a failure
                continue
            if answer.text == right[question, prompt]:
                tally.done.append((sent, time.monotonic() - sent))
            else:
                tally.wrong.append(
                    Failure(time.monotonic(), f"{prompt!r} answered {answer.text!r}")
                )
            await asyncio.sleep(pause)
