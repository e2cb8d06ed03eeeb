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

_REPORT = 0.1  # seconds between reports
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
    """Run clients in a namespace during the context; see `sidecar.local.load.load`.

    They run at the lowest CPU priority, because they are not under test.

    Args:
        inside: prefix of a command that runs it in the namespace.
        env: the environment of the process.
        log: the file of its stderr.
        address: host:port to which the clients send requests.
        reference: host:port of a Triton whose answers are expected.
        unary: clients that send one unary request after the other.
        streams: clients that run one generation after the other.
        pause: seconds between an answer and the client's next request.
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
    receiving = asyncio.create_task(_receive(process.stdout, running))
    try:
        yield running
        process.stdin.close()
        async with asyncio.timeout(_END):
            await receiving
            assert await process.wait() == 0, f"the clients failed: {log}"
    finally:
        receiving.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _receive(lines: asyncio.StreamReader, running: Load) -> None:
    while line := await lines.readline():
        report = json.loads(line)
        for tally, new in ((running.unary, report["unary"]), (running.streams, report["streams"])):
            tally.done += [(sent, took) for sent, took in new["done"]]
            tally.failed += [Failure(at, what) for at, what in new["failed"]]
            tally.wrong += [Failure(at, what) for at, what in new["wrong"]]


@dataclass(slots=True)
class _Reporter:
    """Reports what is new in a tally; `counts` is how much has been reported."""

    tally: LoadTally
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("done", "failed", "wrong"), 0)
    )

    def new(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {"done": self.tally.done[self.counts["done"] :]}
        for kind in ("failed", "wrong"):
            failures: list[Failure] = getattr(self.tally, kind)
            found[kind] = [(one.at, one.what) for one in failures[self.counts[kind] :]]
        for kind, new in found.items():
            self.counts[kind] += len(new)
        return found


async def _main(address: str, reference: str, unary: int, streams: int, pause: float) -> None:
    ending = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    async with load(address, reference, unary=unary, streams=streams, pause=pause) as running:
        reporters = {"unary": _Reporter(running.unary), "streams": _Reporter(running.streams)}
        while not ending.done():
            _report(reporters)
            await asyncio.wait((ending,), timeout=_REPORT)
    _report(reporters)


def _report(reporters: Mapping[str, _Reporter]) -> None:
    print(json.dumps({name: each.new() for name, each in reporters.items()}), flush=True)


if __name__ == "__main__":
    where, reference, unary, streams, pause = sys.argv[1:]
    asyncio.run(_main(where, reference, int(unary), int(streams), float(pause)))
