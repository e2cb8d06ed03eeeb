"""Faults of processes: killed, frozen, restarted.

Acts: asyncio, os, signal.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from sidecar.drill.scenario import Injection
from sidecar.drill.stage.dead_mans_switch import thawed_at_the_end, without_blocking
from sidecar.drill.stage.mesh import MeshStage
from sidecar.drill.stage.waiting import until
from sidecar.local.processes import process


@asynccontextmanager
async def triton_killed(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """SIGKILL to tritonserver; the supervisor starts another."""
    os.killpg(stage.pid(victim), signal.SIGKILL)
    yield


@asynccontextmanager
async def triton_frozen(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """SIGSTOP to tritonserver and all its processes."""
    async with without_blocking(stage.frozen(victim)):
        yield


@asynccontextmanager
async def sidecar_killed(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """SIGKILL to the sidecar; the supervisor starts another."""
    stage.signal(stage.sidecar_of(victim), signal.SIGKILL)
    yield


@asynccontextmanager
async def sidecar_frozen(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """SIGSTOP to the sidecar, while its Triton serves."""
    async with without_blocking(stage.frozen(stage.sidecar_of(victim))):
        yield


@asynccontextmanager
async def control_plane_killed(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """SIGKILL to the control plane; the supervisor starts another."""
    stage.signal("xds", signal.SIGKILL)
    yield


@asynccontextmanager
async def control_plane_restarted(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """SIGTERM to the control plane; the supervisor starts another."""
    before = stage.signal("xds", signal.SIGTERM)
    await until(lambda: stage.running("xds") not in (None, before), "a new control plane")
    yield


@asynccontextmanager
async def stopped_gracefully(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """SIGTERM to the sidecar, which hands over, drains and ends; the supervisor starts another."""
    stage.signal(stage.sidecar_of(victim), signal.SIGTERM)
    yield


def killed_repeatedly(times: int, every: float) -> Injection[MeshStage]:
    """SIGKILL to the victim's Triton again and again, `every` seconds: it flaps."""

    @asynccontextmanager
    async def flapping(stage: MeshStage, victim: str) -> AsyncIterator[None]:
        for _ in range(times):
            with suppress(ProcessLookupError):
                if (pid := stage.running(victim)) is not None:
                    os.killpg(pid, signal.SIGKILL)
            await asyncio.sleep(every)
        yield

    return flapping


# --- Triton's Python stubs --------------------------------------------------------------------


def stubs(group: int, model: str) -> Sequence[int]:
    """The processes in which a Triton's Python backend runs a model."""
    found = []
    for member in process.members(group):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            command = Path(f"/proc/{member.pid}/cmdline").read_bytes().split(b"\0")
            if f"models/{model}/1/model.py".encode() in command:
                found.append(member.pid)
    return found


def kill_stubs(stage: MeshStage, victim: str, models: Sequence[str]) -> None:
    """SIGKILL to the stubs of models, which nothing here undoes."""
    _signal(_stubs(stage, victim, models), signal.SIGKILL)


def stubs_killed(*models: str) -> Injection[MeshStage]:
    """The stubs of models die, as by the kernel's out-of-memory killer, while Triton lives.

    No switch reloads the models of a drill that was killed: the sidecar's recovery does.
    """

    @asynccontextmanager
    async def killed(stage: MeshStage, victim: str) -> AsyncIterator[None]:
        kill_stubs(stage, victim, models)
        try:
            yield
        finally:
            for model in models:
                reloaded = partial(stage.reloaded, victim, model)
                await until(reloaded, f"{victim} has reloaded {model}")

    return killed


def stubs_frozen(*models: str) -> Injection[MeshStage]:
    """SIGSTOP to the stubs of models, while Triton lives."""

    @asynccontextmanager
    async def frozen(stage: MeshStage, victim: str) -> AsyncIterator[None]:
        found = _stubs(stage, victim, models)
        async with without_blocking(thawed_at_the_end(found)):
            _signal(found, signal.SIGSTOP)
            yield

    return frozen


def _stubs(stage: MeshStage, victim: str, models: Sequence[str]) -> list[int]:
    return [stub for model in models for stub in stubs(stage.pid(victim), model)]


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # it has ended
            os.kill(pid, number)
