"""`make demo`: a mesh under load whose primary dies, and then is stopped gracefully.

Exit status 1 if a unary request failed or an answer was wrong.

Acts: asyncio, os, signal, time.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from sidecar.local import control, meshfile, status_table
from sidecar.local.load import Load, LoadTally, load
from sidecar.local.meshfile import Mesh
from sidecar.local.timeline import Kind, Timeline, follow
from sidecar.runtime import terminal
from sidecar.runtime.errors import SidecarError, Unavailable

UNARY, STREAMS = 16, 4
_FOLDER = Path(".mesh") / "demo"
_DOWN = f"  .venv/bin/python -m sidecar local down --mesh {_FOLDER}"
_STEADY = 8.0  # seconds of undisturbed load before and after each event
_PATIENCE = 60.0  # seconds within which the mesh must recover
_REFRESH = 0.5
_PLAIN = 5.0  # seconds between lines without a terminal
_WINDOW = 1.0  # seconds that the live figures cover


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that was done to the primary; times are seconds on the monotonic clock."""

    name: str
    victim: str
    began: float
    ended: float


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.rpartition("\n\n")[0])
    parser.add_argument("--keep", action="store_true", help="keep the mesh running")
    keep = parser.parse_args(arguments).keep
    folder = meshfile.folder(_FOLDER)
    # Without a terminal, lines need not be broken at 80 characters.
    console = terminal.console(None if sys.stdout.isatty() else 120)
    try:
        if control.down(folder):
            console.print(f"Stopped the mesh left by an earlier demo in {_FOLDER}.")
        console.print(
            "Starting Consul, two Tritons with their sidecars, the control plane, Envoy …"
        )
        mesh = control.detach(folder, [f"--dir={folder}", "--instances=2"])
        try:
            return asyncio.run(_play(folder, mesh, console))
        finally:
            if keep:
                console.print(f"\nStill up. Another `make demo`, or this, stops it:\n{_DOWN}")
                console.print(status_table.summary(mesh))
            else:
                control.down(folder)
    except SidecarError as error:
        console.print(str(error), style="red")
        return 1
    except KeyboardInterrupt:
        return 130


async def _play(folder: Path, mesh: Mesh, console: Console) -> int:
    """Put load on the mesh, fail its primary twice, report; returns the exit status."""
    incidents: list[Incident] = []
    clients = load(mesh.envoy.grpc, mesh.instances[0].triton.grpc, unary=UNARY, streams=STREAMS)
    async with follow(mesh) as timeline, clients as running:
        began = time.monotonic()
        async with _shown(console, mesh, timeline, running):
            await asyncio.sleep(_STEADY)
            incidents.append(await _incident("kill -9 of its Triton", folder, timeline, _kill))
            incidents.append(await _incident("SIGTERM to its sidecar", folder, timeline, _stop))
        took = time.monotonic() - began
    return _report(console, timeline, running, incidents, took)


async def _incident(
    name: str, folder: Path, timeline: Timeline, act: Callable[[Mesh, str], None]
) -> Incident:
    """Fail the primary; ends when there is a new one, and both instances pass again."""
    victim = timeline.primary
    if victim is None:
        raise Unavailable("the mesh has no primary")
    began = time.monotonic()
    act(meshfile.load(folder), victim)  # reloaded: pids change when parts are restarted
    while not _recovered(timeline, victim, began):
        if time.monotonic() > began + _PATIENCE:
            raise Unavailable(f"{name}: the mesh has not recovered within {_PATIENCE:.0f} s")
        await asyncio.sleep(0.1)
    await asyncio.sleep(_STEADY)
    return Incident(name, victim, began, time.monotonic())


def _kill(mesh: Mesh, victim: str) -> None:
    os.kill(_pid(mesh.instance(victim).triton.pid), signal.SIGKILL)


def _stop(mesh: Mesh, victim: str) -> None:
    os.kill(_pid(mesh.instance(victim).sidecar.pid), signal.SIGTERM)


def _pid(pid: int | None) -> int:
    if pid is None:
        raise Unavailable("a part of the mesh is not running")
    return pid


def _recovered(timeline: Timeline, victim: str, began: float) -> bool:
    fallen = timeline.first("verdict", began, only=victim)
    moved = timeline.first("primary", began, but=victim)
    return bool(fallen and moved) and set(timeline.verdicts.values()) == {"passing"}


# --- output ---------------------------------------------------------------------------------


@asynccontextmanager
async def _shown(
    console: Console, mesh: Mesh, timeline: Timeline, running: Load
) -> AsyncIterator[None]:
    """A live table on a terminal, a line every few seconds elsewhere."""
    show = _live if terminal.is_interactive() else _lines
    task = asyncio.create_task(show(console, mesh, timeline, running))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _live(console: Console, mesh: Mesh, timeline: Timeline, running: Load) -> None:
    with Live(console=console, auto_refresh=False) as screen:
        while True:
            screen.update(_table(mesh, timeline, running), refresh=True)
            await asyncio.sleep(_REFRESH)


async def _lines(console: Console, mesh: Mesh, timeline: Timeline, running: Load) -> None:
    printed, next_line = 0, 0.0
    began = time.monotonic()
    while True:
        for seen in timeline.sightings[printed:]:
            if seen.kind != "traffic":
                console.print(f"{seen.at - began:6.2f} s  {seen.kind} {seen.instance} {seen.value}")
        printed = len(timeline.sightings)
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + _PLAIN
            console.print(f"{time.monotonic() - began:6.2f} s  {_figures(running)}")
        await asyncio.sleep(0.1)


def _table(mesh: Mesh, timeline: Timeline, running: Load) -> Group:
    grid = Table("instance", "verdict", "role", "epoch", "answered")
    for instance in mesh.instances:
        primary = instance.id == timeline.primary
        verdict = timeline.verdicts.get(instance.id, "gone")
        grid.add_row(
            instance.id,
            status_table.styled(verdict),
            "primary" if primary else "standby",
            str(timeline.epoch) if primary else "",
            str(timeline.answered.get(instance.id, 0)),
        )
    return Group(grid, _figures(running))


def _figures(running: Load) -> str:
    now = time.monotonic()
    recent = running.unary.between(now - _WINDOW, now)
    return (
        f"{len(recent.done) / _WINDOW:6.0f} requests/s"
        f"   p50 {recent.quantile(0.5) * 1000:5.1f} ms   p99 {recent.quantile(0.99) * 1000:5.1f} ms"
        f"   failed {len(running.unary.failed)}   wrong {_wrong(running)}"
        f"   streams finished {len(running.streams.done)}, cut {len(running.streams.failed)}"
    )


def _report(
    console: Console, timeline: Timeline, running: Load, incidents: list[Incident], took: float
) -> int:
    console.print()
    grid = Table("done to the primary", title="What it cost", title_justify="left")
    rows = [_costs(timeline, running, incident) for incident in incidents]
    for incident in incidents:
        grid.add_column(f"{incident.name}\n({incident.victim})", justify="right")
    for figure in rows[0]:
        grid.add_row(figure, *(costs[figure] for costs in rows))
    console.print(grid)
    whole = running.unary
    console.print(
        f"In {took:.0f} s: {whole.sent} unary requests, {len(whole.failed)} failed, "
        f"{_wrong(running)} wrong answers; p50 {whole.quantile(0.5) * 1000:.1f} ms, "
        f"p99 {whole.quantile(0.99) * 1000:.1f} ms. "
        f"{running.streams.sent} streams, {len(running.streams.failed)} cut."
    )
    _complain(console, running.unary)
    return 1 if whole.failed or _wrong(running) else 0


def _costs(timeline: Timeline, running: Load, incident: Incident) -> dict[str, str]:
    unary = running.unary.between(incident.began, incident.ended)
    streams = running.streams.between(incident.began, incident.ended)
    return {
        "detected": _after(timeline, incident, "verdict"),
        "new primary": _after(timeline, incident, "primary"),
        "traffic moved": _after(timeline, incident, "traffic"),
        "requests": str(unary.sent),
        "failed": str(len(unary.failed)),
        "slowest": f"{unary.slowest * 1000:.0f} ms",
        "streams cut": f"{len(streams.failed)} of {streams.sent}",
    }


def _after(timeline: Timeline, incident: Incident, kind: Kind) -> str:
    """When a change was first seen after an incident; for the victim only its verdict counts."""
    filters = {"only": incident.victim} if kind == "verdict" else {"but": incident.victim}
    seen = timeline.first(kind, incident.began, **filters)
    return f"{(seen.at - incident.began) * 1000:.0f} ms" if seen else "not seen"


def _wrong(running: Load) -> int:
    return len(running.unary.wrong) + len(running.streams.wrong)


def _complain(console: Console, tally: LoadTally) -> None:
    for failure in (tally.failed + tally.wrong)[:5]:
        console.print(f"  {failure.what}", style="red")


if __name__ == "__main__":
    sys.exit(main())
