"""What clients notice when the primary of a two-instance mesh fails, under load.

64 clients send unary requests and 4 open streams in a closed loop, all
with plain tritonclient and all answers compared. Four faults are injected into the primary, several
times each.

The longest extra delay is the slowest request that was in flight at the fault or sent within a
second of it, minus the 99th percentile of the undisturbed seconds before. Later requests are slow
because a part restarts and takes CPU time from all others. The line `nothing`
is the same difference within the undisturbed seconds: the noise of the machine.

The baseline, on the same Tritons, is a setup without the mesh: an Envoy with both Tritons
in a file. Its graceful stop is SIGTERM to Triton.

Exit status 1 if, through the mesh, a unary request failed, an answer was wrong, or a stream was cut
although its Triton was running.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence

from benchmarks import report, static_envoy
from benchmarks.report import ms, spread
from benchmarks.scene import FREEZE, STREAMS, UNARY, Deed, Outcome, loaded
from sidecar.local.load import Failure, Load
from sidecar.local.meshfile import InstanceAddresses, Mesh
from sidecar.local.timeline import Kind
from sidecar.runtime.errors import Unavailable


def to_triton(number: signal.Signals) -> Callable[[InstanceAddresses], None]:
    """Sends a signal to the instance's Triton."""
    return lambda instance: _send(instance.triton.pid, number)


def to_sidecar(number: signal.Signals) -> Callable[[InstanceAddresses], None]:
    """Sends a signal to the instance's sidecar."""
    return lambda instance: _send(instance.sidecar.pid, number)


def _send(pid: int | None, number: signal.Signals) -> None:
    if pid is None:
        raise Unavailable("a part of the mesh is not running")
    os.kill(pid, number)


_FREEZING = (to_triton(signal.SIGSTOP), to_triton(signal.SIGCONT))
DEEDS = (
    Deed("SIGKILL of its Triton", to_triton(signal.SIGKILL)),
    Deed("SIGSTOP of its Triton", *_FREEZING, rounds=2),
    Deed("graceful stop", to_sidecar(signal.SIGTERM), cuts_streams=False),
    Deed("SIGKILL of its sidecar", to_sidecar(signal.SIGKILL), cuts_streams=False, rounds=2),
)
WITHOUT = (
    Deed("SIGKILL of a Triton", to_triton(signal.SIGKILL)),
    Deed("SIGSTOP of a Triton", *_FREEZING),
    Deed("graceful stop", to_triton(signal.SIGTERM)),
)


async def through_the_mesh(mesh: Mesh) -> tuple[dict[str, list[Outcome]], list[Failure]]:
    """Each fault several times; also returns what must not have happened."""
    found: dict[str, list[Outcome]] = {deed.name: [] for deed in DEEDS}
    async with loaded(mesh, mesh.envoy.grpc) as playing:
        for number in range(max(deed.rounds for deed in DEEDS)):
            for deed in (deed for deed in DEEDS if number < deed.rounds):
                found[deed.name].append(await playing.play(deed))
    return found, faults(found, playing.running)


def faults(found: dict[str, list[Outcome]], running: Load) -> list[Failure]:
    """All failures at any time, apart from streams that were cut with their Triton."""
    unary, streams = running.unary, running.streams
    bad = [*unary.failed, *unary.wrong, *streams.failed, *streams.wrong]
    for deed in (deed for deed in DEEDS if deed.cuts_streams):
        for outcome in found[deed.name]:
            for failure in outcome.streams.failed[:STREAMS]:
                bad.remove(failure)
    return bad


async def without_the_mesh(mesh: Mesh) -> dict[str, list[Outcome]]:
    """Each fault once, with clients of an Envoy with a static file."""
    found = {}
    async with static_envoy.running(mesh) as address, loaded(mesh, address) as playing:
        for deed in WITHOUT:
            found[deed.name] = [await playing.play(deed, mesh.instances[0].id)]
    return found


# --- output ---------------------------------------------------------------------------------


def counts(name: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """The numbers of requests by outcome."""
    unary = [outcome.unary for outcome in outcomes]
    streams = [outcome.streams for outcome in outcomes]
    cut = sum(len(tally.failed) for tally in streams)
    wrong = sum(len(tally.wrong) for tally in unary + streams)
    return (
        f"{name}, {len(outcomes)} x",
        str(sum(tally.sent for tally in unary)),
        str(sum(len(tally.failed) for tally in unary)),
        str(wrong),
        f"{cut} of {sum(tally.sent for tally in streams)}",
    )


COUNTS = ("done to the primary", "requests", "failed", "wrong", "streams cut")


def delays(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """The latencies of requests."""
    return (
        spread([outcome.before.quantile(0.99) for outcome in outcomes]),
        spread([outcome.near.slowest for outcome in outcomes]),
        spread([outcome.extra for outcome in outcomes]),
        spread([outcome.unary.slowest for outcome in outcomes]),
    )


def undisturbed(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """The line with which the others are compared."""
    before = [outcome.before for outcome in outcomes]
    slowest = spread([tally.slowest for tally in before])
    return (
        f"nothing, {len(before)} x",
        str(sum(tally.sent for tally in before)),
        *("", "", ""),
        spread([tally.quantile(0.99) for tally in before]),
        slowest,
        spread([outcome.noise for outcome in outcomes]),
        slowest,
    )


DELAYS = ("p99 before", "slowest near it", "longest extra delay", "slowest until healthy")


def times(name: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """A line of the table of the mesh's reactions."""
    kinds: tuple[Kind, ...] = ("verdict", "primary", "traffic")
    return name, *(
        spread([outcome.seen[kind] for outcome in outcomes if kind in outcome.seen])
        for kind in kinds
    )


async def measure(mesh: Mesh) -> int:
    """Measure and print everything; returns the exit status."""
    ours, bad = await through_the_mesh(mesh)
    report.table(
        "Through the mesh",
        (*COUNTS, *DELAYS),
        undisturbed([outcome for outcomes in ours.values() for outcome in outcomes]),
        *((*counts(*item), *delays(item[1])) for item in ours.items()),
        note=f"times in ms: least / median / largest; SIGSTOP lasts {FREEZE:g} s",
    )
    report.table(
        "After the deed, as seen in Consul and in Envoy's counters",
        ("done to the primary", "verdict changed", "new primary", "the other one answers"),
        *(times(*item) for item in ours.items()),
    )
    theirs = await without_the_mesh(mesh)
    report.table(
        "Without the mesh: an Envoy with a file",
        ("done to one of the two", *COUNTS[1:], "first to last failure", "slowest answer"),
        *(
            (*counts(*item), ms(item[1][0].outage, 0), ms(item[1][0].unary.slowest, 0))
            for item in theirs.items()
        ),
        note=static_envoy.DESCRIPTION,
    )
    for failure in bad[:10]:
        print(f"through the mesh: {failure.what}", file=sys.stderr)
    return 1 if bad else 0


def main() -> int:
    """Run the benchmark; returns the exit status."""
    report.begin(f"Failure of the primary: {UNARY} unary clients, {STREAMS} with streams")
    with report.mesh(instances=2) as mesh:
        return asyncio.run(measure(mesh))


if __name__ == "__main__":
    sys.exit(main())
