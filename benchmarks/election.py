"""How long until there is a new primary; the costs of a switchover; elections' requests to Consul.

1. In a mesh of three, a model of the primary is unloaded repeatedly: from the moment at which
   Consul shows its verdict CRITICAL until it shows a new epoch held. Then its sidecar is killed
   with SIGKILL: from the signal on. The mesh is idle.
2. In a cluster of three Consul servers and three hosts in network namespaces, everything on the
   primary's host is killed with SIGKILL: from the signal on. Gossip must first declare it dead.
3. In the mesh, the primary moves by `switchover` with 64 unary clients and 16 streams on it.
4. Fifty candidates in one process (all of a sidecar but its probing) on one Consul: requests at
   rest, and from an election until two seconds after it.

The baseline is `consul lock`, once, on the Consul of the mesh.

Exit status 1 if a switchover cost a request or cut a stream.
"""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import consul_lock, report
from benchmarks.candidates import ILL, WELL, candidates
from benchmarks.report import ms, quantile, spread
from sidecar.drill.cluster.layout import same_host
from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.cluster.start import cluster
from sidecar.local import load
from sidecar.local.load import Load
from sidecar.local.meshfile import Mesh
from sidecar.local.timeline import Timeline, follow
from sidecar.runtime.errors import Unavailable
from tests.support.mesh.mesh import LiveMesh

UNARY, STREAMS, CANDIDATES = 64, 16, 50
_PATIENCE = 120.0
_REST, _AFTER = 20.0, 2.0  # seconds


# --- until there is a new primary -----------------------------------------------------------


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition.

    Raises:
        Unavailable: it does not hold within the deadline.
    """
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise Unavailable(f"not so within {_PATIENCE:g} s: {what}")
        await asyncio.sleep(0.005)


async def settled(live: LiveMesh) -> None:
    """Wait until the mesh is healthy, and its instances are settled."""
    await live.steady()
    await asyncio.sleep(2.0)  # longer than election.settle of a local mesh


async def after_a_verdict(live: LiveMesh, seen: Timeline, rounds: int) -> list[float]:
    """Seconds from a CRITICAL verdict in Consul to a lock with a new epoch, for each round."""
    found = []
    for _ in range(rounds):
        await settled(live)
        victim, epoch, began = seen.primary or "", seen.epoch, time.monotonic()
        await live.repository(victim, load.UNARY, "unload")
        await until(lambda: seen.epoch > epoch and seen.primary, "a new primary")  # noqa: B023
        critical = seen.first("verdict", began, only=victim)
        taken = seen.first("primary", began)
        if critical and taken:
            found.append(taken.at - critical.at)
        await live.repository(victim, load.UNARY, "load")
    return found


async def after_a_kill(live: LiveMesh, seen: Timeline, rounds: int) -> list[float]:
    """Seconds from SIGKILL to the primary's sidecar to a lock with a new epoch."""
    found = []
    for _ in range(rounds):
        await settled(live)
        epoch, began = seen.epoch, time.monotonic()
        live.signal(live.sidecar_of(seen.primary or ""), signal.SIGKILL)
        await until(lambda: seen.epoch > epoch, "a new epoch")  # noqa: B023
        taken = seen.first("primary", began)
        found.append(taken.at - began if taken else float("nan"))
    return found


async def after_a_host(folder: Path, rounds: int) -> list[float]:
    """Seconds from SIGKILL to everything on the primary's host to a lock with a new epoch."""
    found = []
    async with cluster(folder) as running:
        for _ in range(rounds):
            await running.steady()
            await asyncio.sleep(8.0)  # longer than election.settle
            found.append(await _without_host(running))
    return found


async def _without_host(running: ClusterStage) -> float:
    async with follow(running.now) as seen:
        await until(lambda: seen.primary, "a primary")
        victim, epoch, began = seen.primary or "", seen.epoch, time.monotonic()
        parts = (victim, same_host(victim, "sidecar"), same_host(victim, "agent"))
        with running.away(*parts):
            await until(lambda: seen.epoch > epoch, "a new epoch")
        taken = seen.first("primary", began)
        return taken.at - began if taken else float("nan")


# --- switchovers ----------------------------------------------------------------------------


async def switchovers(live: LiveMesh, rounds: int) -> tuple[Load, list[float]]:
    """Move the primary under load; returns the load, and the seconds of each switchover."""
    await settled(live)
    mesh, took = live.now, []
    reference = mesh.instances[0].triton.grpc
    busy = load.load(mesh.envoy.grpc, reference, unary=UNARY, streams=STREAMS)
    async with busy as running:
        for _ in range(rounds):
            await asyncio.sleep(4.0)
            took.append(await _switch(live))
        await asyncio.sleep(4.0)
    return running, took


async def _switch(live: LiveMesh) -> float:
    """Seconds from the order until all Envoys have acknowledged the new primary."""
    command = (sys.executable, "-m", "sidecar", "switchover", "--json", f"--mesh={live.folder}")
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, error = await process.communicate()
    if process.returncode:
        raise Unavailable(f"switchover: {said.decode()}{error.decode()}")
    return float(json.loads(said)["steps"][-1]["at"])


# --- requests to Consul ---------------------------------------------------------------------


async def of_many(address: str, count: int, rounds: int) -> tuple[float, list[float], list[int]]:
    """Requests per second when idle, and seconds and requests of each election of `count`."""
    async with candidates(address, count) as running:
        await running.until_primary()
        await asyncio.sleep(10.0)
        before = running.counts.total()
        await asyncio.sleep(_REST)
        rest = (running.counts.total() - before) / _REST
        took, asked = [], []
        for _ in range(rounds):
            primary = await running.until_primary()
            before, began = running.counts.total(), time.monotonic()
            running.verdicts[primary].set(ILL)
            await running.until_primary(primary)
            took.append(time.monotonic() - began)
            await asyncio.sleep(_AFTER)
            asked.append(running.counts.total() - before)
            running.verdicts[primary].set(WELL)
            await asyncio.sleep(8.0)
        return rest, took, asked


# --- output ---------------------------------------------------------------------------------


def times(name: str, seconds: Sequence[float]) -> tuple[str, ...]:
    """A line of the table of times."""
    return (
        f"{name}, {len(seconds)} x",
        ms(quantile(seconds, 0.5), 0),
        ms(quantile(seconds, 0.99), 0),
        ms(max(seconds, default=float("nan")), 0),
    )


async def measure(mesh: Mesh, rounds: int) -> int:
    """Measure and print everything; returns the exit status."""
    live, folder = LiveMesh(mesh.dir), Path(tempfile.mkdtemp(prefix="triton-sidecar-election-"))
    async with follow(mesh) as seen:
        await until(lambda: seen.primary, "a primary")
        verdicts = await after_a_verdict(live, seen, rounds)
        kills = await after_a_kill(live, seen, max(3, rounds // 4))
    running, took = await switchovers(live, 6)
    (folder / "lock").mkdir()
    peer = await consul_lock.takeover(f"http://{mesh.consul.http}", folder / "lock")
    address = f"http://{mesh.consul.http}"
    rest, elections, asked = await of_many(address, CANDIDATES, 5)
    (folder / "cluster").mkdir()
    hosts = await after_a_host(folder / "cluster", 3)
    shutil.rmtree(folder)
    report.table(
        "Until a new epoch is held",
        ("from", "p50", "p99", "largest"),
        times("verdict CRITICAL in Consul", verdicts),
        times("SIGKILL of the sidecar", kills),
        times("SIGKILL of the whole host", hosts),
        times("peer: SIGKILL of the holder", [peer]),
        note=f"lock-delay 0: the epoch tells holders apart. Peer: {consul_lock.DESCRIPTION}.",
    )
    unary, streams = running.unary, running.streams
    bad = [*unary.failed, *unary.wrong, *streams.failed, *streams.wrong]
    report.table(
        f"{len(took)} switchovers, {UNARY} unary clients and {STREAMS} streams",
        ("requests", "failed", "wrong", "slowest", "p99", "streams", "cut", "a switchover took"),
        (
            *(str(unary.sent), str(len(unary.failed)), str(len(unary.wrong))),
            *(ms(unary.slowest, 0), ms(unary.quantile(0.99), 0)),
            *(str(streams.sent), str(len(streams.failed)), spread(took)),
        ),
        note="the last in ms, least / median / largest: until all Envoys have acknowledged it",
    )
    report.table(
        f"{CANDIDATES} candidates on one Consul",
        ("", "value"),
        ("requests a second at rest", f"{rest:.1f}"),
        (f"requests from an election until {_AFTER:g} s after it", spread_counts(asked)),
        ("a new primary after, ms", spread(elections)),
        note="least / median / largest; of the requests at rest most keep the entries right",
    )
    for failure in bad[:10]:
        print(f"in a switchover: {failure.what}", file=sys.stderr)
    return 1 if bad else 0


def spread_counts(counts: Sequence[int]) -> str:
    """Least, median and largest of a few counts."""
    ordered = sorted(counts)
    return f"{ordered[0]} / {ordered[len(ordered) // 2]} / {ordered[-1]}"


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description="How long elections take, and what they cost.")
    parser.add_argument("--rounds", type=int, default=20, help="CRITICAL verdicts, at least 4")
    rounds: int = parser.parse_args().rounds
    report.begin("Elections: time to a new epoch, cost of a switchover, requests to Consul")
    with report.mesh(3) as mesh:
        return asyncio.run(measure(mesh, rounds))


if __name__ == "__main__":
    sys.exit(main())
