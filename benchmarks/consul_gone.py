"""A mesh during a long outage of Consul: whether clients notice.

Consul's agent is killed and stays down. Generations run all the time. Repeatedly, a model of
the instance that answers is unloaded, under more clients, and loaded again. The control plane
cannot learn of it, so only Envoy's own checks of the sidecars can move the requests.
Then Consul is restarted.

Exit status 1 if a request failed or was answered wrongly, if Envoy did not avoid an unhealthy
instance or use it again, if the catalog's age was not reported, or if the mesh did not recover.
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
_CLIENTS = 16  # while an instance is unhealthy
_ANSWERS = 500  # before, during and after
_LATER = 600.0  # seconds after the outage in which the supervisor is thawed in any case
_AGE = "triton_sidecar_xds_catalog_age_seconds"


@dataclass(frozen=True, slots=True)
class Unload:
    """One unload: the time since Consul's end, and the times until requests moved, and back."""

    gone: float
    instance: str
    avoided: float
    unary: LoadTally
    age: float
    age_line: str


async def measure(mesh: Mesh, minutes: float, every: float) -> int:
    """Measure and print everything; returns the exit status."""
    live = LiveMesh(mesh.dir)
    await live.steady()
    listed = await asyncio.to_thread(sidecar, "list", f"--mesh={mesh.dir}", check=True)
    print(f"The mesh before\n\n{listed.stdout}")
    seen: list[Unload] = []
    try:
        gone, recovered, streams = await _outage(live, minutes * 60, every, seen)
    finally:
        _show(seen)  # also after a timeout
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
    troubles += [
        f"{each.instance}: status does not tell the age" for each in seen if not each.age_line
    ]
    troubles += [f"{each.instance}: no metric of the age" for each in seen if each.age < each.gone]
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    return 1 if troubles else 0


async def _outage(
    live: LiveMesh, seconds: float, every: float, seen: list[Unload]
) -> tuple[float, float, LoadTally]:
    """The outage: its length, the seconds until the mesh was healthy again, and the generations."""
    mesh = live.now
    clients = load(mesh.envoy.grpc, mesh.instances[0].triton.grpc, unary=0, streams=_GENERATIONS)
    async with clients as running:
        with live.unsupervised(within=seconds + _LATER):
            live.signal("consul", signal.SIGKILL)
            began = time.monotonic()
            while (left := began + seconds - time.monotonic()) > 0:
                await asyncio.sleep(min(every, left))
                seen.append(await _unloaded(live, began))
        back = time.monotonic()
        await live.steady()
        recovered = time.monotonic() - back
    return back - began, recovered, running.streams


async def _unloaded(live: LiveMesh, began: float) -> Unload:
    """Unload a model of the instance that gets the requests, and load it again."""
    mesh = live.now
    gone = time.monotonic() - began
    hosts = {name: host for name, host in (await live.hosts()).items() if host.usable}
    instance = min(hosts, key=lambda name: hosts[name].priority)
    clients = load(mesh.envoy.grpc, mesh.instances[0].triton.grpc, unary=_CLIENTS, streams=0)
    async with clients as running:

        async def flows() -> None:
            before = len(running.unary.done)
            await until(lambda: len(running.unary.done) > before + _ANSWERS, "answers")

        async def usable() -> bool:
            return (await live.hosts())[instance].usable

        await flows()
        unloaded = time.monotonic()
        await live.repository(instance, UNARY, "unload")
        await live.avoided(instance)
        avoided = time.monotonic() - unloaded
        await flows()
        age = await metric(mesh.xds.metrics, _AGE)
        status = await asyncio.to_thread(sidecar, "local", "status", f"--mesh={live.folder}")
        await live.repository(instance, UNARY, "load")
        await until(usable, f"Envoy takes {instance} back")
        await flows()
    lines = [line for line in status.stdout.splitlines() if " old" in line]
    line = lines[0].partition(";")[0].strip() if lines else ""
    return Unload(gone, instance, avoided, running.unary, age, line)


def _show(seen: list[Unload]) -> None:
    report.table(
        "A model of the instance that answers is unloaded, and loaded again",
        ("Consul gone for", "instance", "avoided after", "requests", "failed", "wrong",
         "catalog age", "in `local status`"),
        *(
            (f"{each.gone / 60:.0f} min", each.instance, f"{each.avoided:.2f} s",
             str(each.unary.sent),
             str(len(each.unary.failed)), str(len(each.unary.wrong)), f"{each.age:.0f} s",
             each.age_line)
            for each in seen
        ),
    )  # fmt: skip


def main() -> int:
    """Run the benchmark; returns the exit status."""
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
