"""The load of `sidecar.local.load`, from a process in a namespace that reports to this one."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidecar.local.load import Failure, Load, LoadTally, load
from tests.support.mesh.mesh_outside import ROOT

_TELL = 0.1  # seconds
_LINE = 1 << 24  # bytes
_END = 60.0  # seconds for the requests in flight to end; each has 30


@asynccontextmanager
async def clients(
    inside: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    address: str,
    reference: str,
    *,
    unary: int,
    streams: int,
    pause: float = 0.0,
) -> AsyncIterator[Load]:
    """Clients in a namespace as long as the context lasts; see `sidecar.local.load.load`.

    They have the lowest priority on the machine: they are not what is tested.

    Args:
        inside: what to put before a command so that it runs in the namespace.
        env: the environment of the process.
        log: where it may complain.
        address: host:port that the clients talk to.
        reference: host:port of a Triton whose answers are taken to be right.
        unary: clients that ask one question after the other.
        streams: clients that let one generation follow the other.
        pause: seconds that a client lets pass between an answer and its next question.
    """
    command = (
        *inside, "nice", "-n", "19", sys.executable, "-m", "tests.support.cluster.clients",
        address, reference, str(unary), str(streams), str(pause),
    )  # fmt: skip
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            limit=_LINE,
            start_new_session=True,
        )
    assert process.stdin
    assert process.stdout
    running = Load()
    hearing = asyncio.create_task(_hear(process.stdout, running))
    try:
        yield running
        process.stdin.close()
        async with asyncio.timeout(_END):
            await hearing
            assert await process.wait() == 0, f"the clients broke: {log}"
    finally:
        hearing.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _hear(lines: asyncio.StreamReader, running: Load) -> None:
    while line := await lines.readline():
        news = json.loads(line)
        for tally, told in ((running.unary, news["unary"]), (running.streams, news["streams"])):
            tally.done += [(sent, took) for sent, took in told["done"]]
            tally.failed += [Failure(at, what) for at, what in told["failed"]]
            tally.wrong += [Failure(at, what) for at, what in told["wrong"]]


@dataclass(slots=True)
class _Told:
    """How much of a tally has been told."""

    tally: LoadTally
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("done", "failed", "wrong"), 0)
    )

    def news(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {"done": self.tally.done[self.counts["done"] :]}
        for kind in ("failed", "wrong"):
            failures: list[Failure] = getattr(self.tally, kind)
            found[kind] = [(one.at, one.what) for one in failures[self.counts[kind] :]]
        for kind, news in found.items():
            self.counts[kind] += len(news)
        return found


async def _main(address: str, reference: str, unary: int, streams: int, pause: float) -> None:
    ending = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    async with load(address, reference, unary=unary, streams=streams, pause=pause) as running:
        told = {"unary": _Told(running.unary), "streams": _Told(running.streams)}
        while not ending.done():
            _say(told)
            await asyncio.wait((ending,), timeout=_TELL)
    _say(told)


def _say(told: Mapping[str, _Told]) -> None:
    print(json.dumps({name: one.news() for name, one in told.items()}), flush=True)


if __name__ == "__main__":
    where, reference, unary, streams, pause = sys.argv[1:]
    asyncio.run(_main(where, reference, int(unary), int(streams), float(pause)))
