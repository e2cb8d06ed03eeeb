"""A mesh whose Consul is gone for long: whether anybody who asks it for answers notices.

Consul's agent is killed and stays away. Generations run all the time; again and again a model of
the instance that answers is unloaded, under more clients, and loaded again. Nobody can tell the
control plane, so only Envoy's own checks of the sidecars can turn the requests away, and back.
Then Consul is started again.

Exit status 1 if a request failed or was answered wrongly, if Envoy did not avoid a sick instance
or take it back, if the age of the catalog was not told, or if the mesh did not become well again.
"""

import argparse
import asyncio
import signal
import sys
import time
from dataclasses import dataclass

from benchmarks import report
from sidecar.local.load import UNARY, LoadTally, load
from sidecar.local.meshfile import Mesh
from tests.support.mesh.mesh import LiveMesh
from tests.support.mesh.mesh_outside import metric, sidecar, until

_GENERATIONS = 4  # clients, all the time
_CLIENTS = 16  # while an instance is sick
_ANSWERS = 500  # before, during and after
_AGE = "triton_sidecar_xds_catalog_age_seconds"


@dataclass(frozen=True, slots=True)
class Illness:
    """One of them: how long Consul had been gone, and how long the others took to see to it."""

    gone: float
    who: str
    avoided: float
    unary: LoadTally
    age: float
    told: str


async def measure(mesh: Mesh, minutes: float, every: float) -> int:
    """Measure and print everything; gives the exit status."""
    live = LiveMesh(mesh.dir)
    await live.steady()
    told = await asyncio.to_thread(sidecar, "list", f"--mesh={mesh.dir}", check=True)
    print(f"The mesh before\n\n{told.stdout}")
    seen: list[Illness] = []
    try:
        gone, recovered, streams = await _outage(live, minutes * 60, every, seen)
    finally:
        _show(seen)  # also if something was waited for in vain
    tallies = [*(each.unary for each in seen), streams]
    failed = [failure.what for tally in tallies for failure in tally.failed]
    wrong = [failure.what for tally in tallies for failure in tally.wrong]
    report.table(
        "What came of it",
        ("Consul gone", "well again after", "illnesses", "requests", "generations", "failed",
         "wrong"),
        (f"{gone / 60:.0f} min", f"{recovered:.1f} s", str(len(seen)),
         str(sum(each.unary.sent for each in seen)), str(streams.sent), str(len(failed)),
         str(len(wrong))),
        note="well again: every check passes and Envoy's priorities are those of the lock",
    )  # fmt: skip
    troubles = (failed + wrong)[:10]
    troubles += [f"{each.who}: status does not tell the age" for each in seen if not each.told]
    troubles += [f"{each.who}: no metric of the age" for each in seen if each.age < each.gone]
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    return 1 if troubles else 0


async def _outage(
    live: LiveMesh, seconds: float, every: float, seen: list[Illness]
) -> tuple[float, float, LoadTally]:
    """Consul's absence: how long it was, how long until all was healthy again, the generations."""
    mesh = live.now
    clients = load(mesh.envoy.grpc, mesh.instances[0].triton.grpc, unary=0, streams=_GENERATIONS)
    async with clients as running:
        with live.unsupervised():
            live.signal("consul", signal.SIGKILL)
            began = time.monotonic()
            while (left := began + seconds - time.monotonic()) > 0:
                await asyncio.sleep(min(every, left))
                seen.append(await _sick(live, began))
        back = time.monotonic()
        await live.steady()
        recovered = time.monotonic() - back
    return back - began, recovered, running.streams


async def _sick(live: LiveMesh, began: float) -> Illness:
    """Unload a model where the requests go, and load it again."""
    mesh = live.now
    gone = time.monotonic() - began
    hosts = {name: host for name, host in (await live.hosts()).items() if host.usable}
    who = min(hosts, key=lambda name: hosts[name].priority)
    clients = load(mesh.envoy.grpc, mesh.instances[0].triton.grpc, unary=_CLIENTS, streams=0)
    async with clients as running:

        async def flows() -> None:
            before = len(running.unary.done)
            await until(lambda: len(running.unary.done) > before + _ANSWERS, "answers")

        async def usable() -> bool:
            return (await live.hosts())[who].usable

        await flows()
        sick = time.monotonic()
        await live.repository(who, UNARY, "unload")
        await live.avoided(who)
        avoided = time.monotonic() - sick
        await flows()
        age = await metric(mesh.xds.metrics, _AGE)
        told = await asyncio.to_thread(sidecar, "local", "status", f"--mesh={live.folder}")
        await live.repository(who, UNARY, "load")
        await until(usable, f"Envoy takes {who} back")
        await flows()
    lines = [line for line in told.stdout.splitlines() if " old" in line]
    line = lines[0].partition(";")[0].strip() if lines else ""
    return Illness(gone, who, avoided, running.unary, age, line)


def _show(seen: list[Illness]) -> None:
    report.table(
        "A model of the instance that answers is unloaded, and loaded again",
        ("Consul gone for", "instance", "avoided after", "requests", "failed", "wrong",
         "catalog age", "in `local status`"),
        *(
            (f"{each.gone / 60:.0f} min", each.who, f"{each.avoided:.2f} s", str(each.unary.sent),
             str(len(each.unary.failed)), str(len(each.unary.wrong)), f"{each.age:.0f} s",
             each.told)
            for each in seen
        ),
    )  # fmt: skip


def main() -> int:
    """Run the benchmark; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="without Consul; default 5")
    parser.add_argument(
        "--every", type=float, default=60.0, help="seconds from one illness to the next; 60"
    )
    wished = parser.parse_args()
    report.begin("Without Consul")
    with report.mesh(3) as mesh:
        return asyncio.run(measure(mesh, wished.minutes, wished.every))


if __name__ == "__main__":
    sys.exit(main())
