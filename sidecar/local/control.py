"""Control of a mesh in the background: start, status and stop.

Acts: asyncio, signal, subprocess, time.
"""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sidecar.control_planes import rpc
from sidecar.health.server import LIVENESS
from sidecar.local import consul_view, meshfile
from sidecar.local.meshfile import Mesh
from sidecar.local.planning.plan import Probe
from sidecar.local.processes import cleanup, part_probe, state_file
from sidecar.local.processes.identity import alive, identify, send
from sidecar.local.processes.state_file import MeshState, PartState
from sidecar.runtime.errors import ConfigError, SidecarError, Unavailable
from sidecar.v1 import control_plane_pb2

_PAUSE = 0.1
_MISTAKE = 2  # the exit status of `local up` for a mistake in its arguments
# Seconds for a graceful stop: more than the sum of its steps' deadlines.
_STOP = 120.0
# Seconds until a supervisor has written its state, which it does at once; for a busy machine.
_FIRST_RECORD = 15.0


def detach(folder: Path, arguments: Sequence[str]) -> Mesh:
    """Start `local up` in a separate session and wait until the mesh is up.

    Args:
        folder: the mesh's folder, absolute.
        arguments: those of `local up`.

    Raises:
        ConfigError: a mesh is running there, or the arguments are wrong.
        Unavailable: it did not come up, and left nothing behind; the message is its output.
    """
    cleanup.prepare(folder)
    log = folder / "logs" / "supervisor.log"
    with cleanup.on_disk(folder):
        with cleanup.claim(folder):
            cleanup.refuse_running(folder)
            cleanup.sweep(folder)  # so that the state read below is the new mesh's
        log.parent.mkdir(exist_ok=True)
        log.unlink(missing_ok=True)  # of an earlier mesh
    with cleanup.on_disk(folder), log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "sidecar", "local", "up", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while child.poll() is None:
            found = state_file.load(folder)
            if found and found.supervisor.pid == child.pid and found.phase == "running":
                return meshfile.load(folder)
            time.sleep(_PAUSE)
    except BaseException:  # Ctrl-C: an operator who stops waiting does not want the mesh
        child.terminate()
        child.wait()
        raise
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    text = "\n".join(line.removeprefix("triton-sidecar: ") for line in lines)
    raise (ConfigError if child.returncode == _MISTAKE else Unavailable)(text)


def down(folder: Path) -> bool:
    """Stop the mesh of a folder and clean up after it; False if there was none.

    Raises:
        Unavailable: something could not be stopped; the message names it.
        ConfigError: the mesh's state cannot be read.
    """
    if not (folder / cleanup.LOCK).exists():
        return False
    stopped = _stop_supervisor(folder)
    with cleanup.on_disk(folder), cleanup.claim(folder):
        return cleanup.sweep(folder) or stopped


def _stop_supervisor(folder: Path) -> bool:
    if not cleanup.is_claimed(folder):
        return False
    deadline = time.monotonic() + _FIRST_RECORD
    while (found := state_file.load(folder)) is None or not alive(found.supervisor):
        if not cleanup.is_claimed(folder):
            return True
        _wait(folder, deadline)
    send(found.supervisor, signal.SIGTERM)
    deadline = time.monotonic() + _STOP
    while alive(found.supervisor):
        if time.monotonic() > deadline:
            send(found.supervisor, signal.SIGKILL)
        time.sleep(_PAUSE)
    # A killed one is gone with its first thread; others, and children that it was just starting,
    # hold the folder for a moment longer.
    deadline = time.monotonic() + _FIRST_RECORD
    while cleanup.is_claimed(folder):
        _wait(folder, deadline)
    return True


def _wait(folder: Path, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise Unavailable(f"{folder}: {cleanup.LOCK} is locked, but not by a mesh")
    time.sleep(_PAUSE)


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One part: its state in the supervisor, and what it answers to its probe now."""

    state: PartState
    answer: str

    @property
    def well(self) -> bool:
        """Whether it runs and answers its probe."""
        return self.state.condition == "running" and self.answer == "ok"


@dataclass(frozen=True, slots=True)
class MeshStatus:
    """The status of a mesh. `trouble` is why Consul could not be queried, if so."""

    mesh: Mesh
    record: MeshState
    supervised: bool
    parts: tuple[PartStatus, ...]
    instances: dict[str, consul_view.InstanceView]
    trouble: str | None

    @property
    def paused(self) -> str:
        """Why automation is paused, according to the instances, or ""."""
        return next((seen.paused for seen in self.instances.values() if seen.paused), "")

    @property
    def well(self) -> bool:
        """Everything runs and answers, every instance passes, exactly one is primary."""
        expected = {instance.id for instance in self.mesh.instances}
        passing = {
            seen.id for seen in self.instances.values() if seen.status in consul_view.HEALTHY
        }
        primaries = [seen for seen in self.instances.values() if seen.role == "primary"]
        parts = self.supervised and all(part.well for part in self.parts)
        return parts and expected == passing and len(primaries) == 1


def status(folder: Path) -> MeshStatus:
    """The status of a folder's mesh.

    Raises:
        ConfigError: there is none.
    """
    mesh, found = meshfile.load(folder), state_file.load(folder)
    if found is None:
        raise ConfigError(f"{folder}: no mesh is running there")
    return asyncio.run(_ask(mesh, found))


async def _ask(mesh: Mesh, found: MeshState) -> MeshStatus:
    answers = await asyncio.gather(*(_answer(mesh, part) for part in found.parts))
    instances: dict[str, consul_view.InstanceView] = {}
    trouble = None
    try:
        async with consul_view.connect(mesh) as api:
            instances = await consul_view.observe(api)
    except SidecarError as error:
        trouble = str(error)
    statuses = tuple(map(PartStatus, found.parts, answers))
    return MeshStatus(mesh, found, alive(found.supervisor), statuses, instances, trouble)


async def _answer(mesh: Mesh, part: PartState) -> str:
    if part.process is None:
        return "not running"
    if identify(part.process.pid) != part.process:
        return "gone"
    try:
        if part.kind == "sidecar":
            # Whether it serves is shown by its instance: a cold standby is healthy without.
            await part_probe.health(part.address, LIVENESS)
            return "ok"
        await part_probe.check(_probe(mesh, part))
        return await _staleness(part.address) if part.kind == "xds" else "ok"
    except SidecarError as error:
        return str(error)


async def _staleness(address: str) -> str:
    """What is wrong with a control plane's catalog, or `ok`."""
    request = control_plane_pb2.GetSnapshotRequest()
    snapshot = await rpc.ask(address, lambda stub: stub.GetSnapshot(request))
    return snapshot.catalog_status or "ok"


def _probe(mesh: Mesh, part: PartState) -> Probe:
    match part.kind:
        case "consul":
            return Probe("consul", f"http://{part.address}")
        case "triton":
            # Not readiness: a Triton that has unloaded a model is not ready.
            http = mesh.instance(part.name).triton.http
            return Probe("http", f"http://{http}/v2/health/live")
        case "envoy":
            return Probe("http", f"http://{mesh.envoy.admin}/ready")
        case _:
            return Probe("tcp", part.address)
