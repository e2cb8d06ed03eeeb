"""The output of `local up` while a mesh runs: a live table, or lines without a terminal.

Acts: asyncio, os, time.
"""

import asyncio
import errno
import functools
import os
import sys
import time
from collections.abc import Mapping

from rich.console import Group
from rich.live import Live
from rich.text import Text

from sidecar.local import consul_view
from sidecar.local.consul_view import InstanceView
from sidecar.local.meshfile import Mesh
from sidecar.local.processes.state_file import MeshState, PartState
from sidecar.local.processes.supervisor import Supervisor
from sidecar.runtime.errors import SidecarError
from sidecar.runtime.terminal import Column, Grid, console
from sidecar.telemetry.line_writer import LineWriter

_STYLES = {
    "running": "green",
    "passing": "green",
    "starting": "yellow",
    "restarting": "yellow",
    "stopping": "yellow",
    "warning": "yellow",
    "dead": "red",
    "critical": "red",
    "cold": "cyan",
}
_REFRESH = 1.0  # seconds
_LAST = 2.0  # seconds at the end for queued lines
_HANGS = "the reader is too slow, or the disk hangs"
_PARTS = (
    Column("part", shortens=True),
    Column("state"),
    Column("pid", worth=2),
    Column("uptime", worth=1),
    Column("restarts", worth=3),
    Column("address", worth=4),
    Column("verdict"),
    Column("role"),
)

Views = Mapping[str, InstanceView]


async def live(supervisor: Supervisor) -> None:
    """Show a table that follows the mesh, until cancelled."""
    mesh = supervisor.plan.mesh
    views: Views = {}
    with Live(console=console(), auto_refresh=False) as screen:
        async with consul_view.connect(mesh) as api:
            while True:
                record = supervisor.record.value
                try:
                    views = await consul_view.observe(api) if _up(record, "consul") else {}
                except SidecarError:
                    views = {}
                width = screen.console.width
                screen.update(whole(mesh, supervisor.record.value, views, width), refresh=True)
                await _changed(supervisor)


async def lines(supervisor: Supervisor) -> None:
    """Print a line for each change of a part, until cancelled."""
    known: dict[str, PartState] = {}
    phase = None
    async for record in supervisor.record:
        for part in record.parts:
            before, known[part.name] = known.get(part.name), part
            if before and before.condition != part.condition:
                _say(_line(part))
        if phase != record.phase:
            phase = record.phase
            _say(f"mesh: {phase}")
            if phase == "running":
                _output().lines.put(summary(supervisor.plan.mesh))


def summary(mesh: Mesh) -> str:
    """The addresses of a mesh that is up."""
    return "\n".join(
        (
            f"gRPC clients    {mesh.envoy.grpc}",
            f"Consul UI       {mesh.consul.ui}",
            f"Envoy admin     http://{mesh.envoy.admin}",
            f"addresses       {mesh.dir / 'mesh.json'}",
            f"logs            {mesh.dir / 'logs'}",
        )
    )


def whole(mesh: Mesh, record: MeshState, views: Views, width: int) -> Group:
    """The table of parts, with the most useful addresses below it."""
    hint = {
        "starting": "starting …",
        "running": "Ctrl-C stops everything",
        "stopping": "stopping gracefully … Ctrl-C again stops at once",
    }
    return Group(
        table(record, views).shown(width), Text(summary(mesh)), Text(hint[record.phase], "dim")
    )


def table(record: MeshState, views: Views) -> Grid:
    """One row for each part; a Triton's also has its instance's status in Consul."""
    made = Grid(_PARTS, boxed=False)
    for part in record.parts:
        seen = views.get(part.name)
        made.add(
            part.name,
            styled(part.condition),
            str(part.process.pid) if part.process else "",
            uptime(part),
            str(part.restarts),
            part.address,
            styled(seen.status) if seen else "",
            _role(seen) if seen else "",
        )
    return made


def _role(seen: InstanceView) -> Text:
    marks = [
        mark for mark, marked in (("paused", seen.paused), ("differs", seen.differs)) if marked
    ]
    style = "yellow" if marks or seen.role == "promoting" else ""
    return Text(" ".join((seen.role, *(f"({mark})" for mark in marks))), style)


def uptime(part: PartState) -> str:
    """How long the part's process has been running, such as `1:02:03`."""
    if part.process is None or part.since is None:
        return ""
    minutes, seconds = divmod(max(0, int(time.time() - part.since)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _say(line: str) -> None:
    _output().lines.put(f"{time.strftime('%H:%M:%S')} {line}")


class _Output:
    """Standard output, which may be a file on a full disk.

    A failed write is reported on standard error, once; a closed pipe is not a failure.
    """

    def __init__(self) -> None:
        self.lines = LineWriter(1, self._notice)
        self.complete = True

    def finish(self) -> None:
        """Wait briefly for queued lines."""
        if not self.lines.flush(_LAST):
            for why in self.lines.owed or (_HANGS,):
                self._complain(why)

    def _notice(self, count: int, why: str) -> str:
        self._complain(why)
        return f"{count} lines could not be written: {why}"

    def _complain(self, why: str) -> None:
        if self.complete and why != os.strerror(errno.EPIPE):
            self.complete = False
            print(f"triton-sidecar: standard output: {why}", file=sys.stderr)


@functools.cache
def _output() -> _Output:
    return _Output()


def finish() -> bool:
    """Wait briefly until all lines are written; returns whether none is missing."""
    _output().finish()
    return _output().complete


def _line(part: PartState) -> str:
    details = [f"pid {part.process.pid}"] if part.process else []
    # Consul's agent exits with 1 on SIGTERM; only a kill is worth reporting.
    if part.exit is not None and (part.condition != "stopped" or part.exit < 0):
        details.append(f"exit {part.exit}")
    return f"{part.name}: {part.condition}" + (f" ({', '.join(details)})" if details else "")


def styled(word: str) -> Text:
    """A word in the colour of its meaning."""
    return Text(word, _STYLES.get(word, ""))


def _up(record: MeshState, name: str) -> bool:
    return any(part.name == name and part.condition == "running" for part in record.parts)


async def _changed(supervisor: Supervisor) -> None:
    try:
        async with asyncio.timeout(_REFRESH):
            await supervisor.record.changed(supervisor.record.version)
    except TimeoutError:
        pass
