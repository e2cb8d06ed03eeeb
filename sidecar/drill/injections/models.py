"""Faults of models: they misbehave on order, are unloaded, replaced, or take long to load.

Acts: asyncio, os, shutil, signal.
"""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sidecar.drill.misbehaving_models import CACHED, UNARY
from sidecar.drill.record import Violation
from sidecar.drill.scenario import Injection, Violated
from sidecar.drill.stage import undo
from sidecar.drill.stage.dead_mans_switch import undone_at_the_end, without_blocking
from sidecar.drill.stage.exit_status import ended
from sidecar.drill.stage.http import request
from sidecar.drill.stage.mesh import MeshStage
from sidecar.drill.stage.waiting import until
from sidecar.local.meshfile import write_whole
from sidecar.local.processes import part_probe
from sidecar.runtime.errors import Rejected, Unavailable

_CACHED_WITHIN = 10.0  # seconds for an answer from a cache, on a busy machine
_RESTARTED_WITHIN = 120.0  # seconds; recovery waits for 30 by default


def misbehaving(model: str = UNARY, **control: object) -> Injection[MeshStage]:
    """A model shows a fault; see `triton_models/faulty/1/staging.py`."""

    @asynccontextmanager
    async def ordered(stage: MeshStage, victim: str) -> AsyncIterator[None]:
        async with undone_at_the_end(undo.file(_control(stage, victim, model))):
            write_control(stage, victim, model, control)
            yield

    return ordered


@asynccontextmanager
async def hidden_by_cache(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """A model finishes nothing any more, but Triton answers what it was asked before.

    Raises:
        Rejected, Unavailable: Triton does not, so that nothing is hidden.
    """
    before = await _known_answer(stage, victim)
    async with misbehaving(CACHED, fault="hang")(stage, victim):
        if await _known_answer(stage, victim) != before:
            raise Rejected(f"{CACHED} of {victim} gave two answers to one question")
        yield


@asynccontextmanager
async def gpu_memory_exhausted(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """A model fails as if the GPU had no memory left, until another tritonserver runs.

    Raises:
        Violated: at the end, if its sidecar has not restarted it.
    """
    before = stage.pid(victim)
    async with misbehaving(fault="out_of_memory", triton=before)(stage, victim):
        yield
        try:
            await until(
                lambda: stage.running(victim) not in (None, before),
                f"a new {victim}",
                patience=_RESTARTED_WITHIN,
            )
        except Unavailable:
            found = f"the same tritonserver after {_RESTARTED_WITHIN:g} s"
            raise Violated(Violation("recovery", "a restart", found)) from None


def loading_slowly(seconds: float) -> Injection[MeshStage]:
    """Triton and its sidecar restart, and a model takes long to load."""

    @asynccontextmanager
    async def loading(stage: MeshStage, victim: str) -> AsyncIterator[None]:
        part = stage.sidecar_of(victim)
        async with undone_at_the_end(undo.file(_control(stage, victim, UNARY))):
            async with without_blocking(stage.unsupervised()):
                await ended(stage.signal(part, signal.SIGTERM))
                write_control(stage, victim, UNARY, {"load_seconds": seconds})
                os.killpg(stage.pid(victim), signal.SIGKILL)
            await until(lambda: _answers(stage.instance(victim).sidecar.grpc), f"a new {part}")
            yield

    return loading


@asynccontextmanager
async def unloaded(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """A model is unloaded behind the sidecar's back."""
    # Loading takes longer than the switch allows a command; a second load changes nothing.
    async with undone_at_the_end(undo.triton(stage, victim, UNARY, "load")):
        await stage.repository(victim, UNARY, "unload")
        try:
            yield
        finally:
            await stage.repository(victim, UNARY, "load")


@asynccontextmanager
async def another_version(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """Version 2 of a model takes the place of version 1."""
    folder = _copy(stage, victim, UNARY)
    shutil.copytree(folder / "1", folder / "2")
    await stage.repository(victim, UNARY, "load")
    try:
        yield
    finally:
        shutil.rmtree(folder / "2")
        await stage.repository(victim, UNARY, "load")


async def _known_answer(stage: MeshStage, victim: str) -> object:
    """The answer to a question that is always the same, from a Triton itself.

    Raises:
        Unavailable: there is none within the time in which a cache answers.
    """
    url = f"http://{stage.instance(victim).triton.http}/v2/models/{CACHED}/infer"
    text = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["Known?"]}
    try:
        async with asyncio.timeout(_CACHED_WITHIN):
            return json.loads(await request("POST", url, {"inputs": [text]}))["outputs"]
    except TimeoutError:
        what = f"{CACHED} of {victim} does not answer from Triton's cache"
        raise Unavailable(f"{what} within {_CACHED_WITHIN:g} s") from None


async def _answers(sidecar: str) -> bool:
    """Whether a sidecar is there, whatever it says."""
    try:
        await part_probe.health(sidecar)
    except Unavailable:
        return False
    return True


def write_control(stage: MeshStage, victim: str, model: str, control: object) -> None:
    """Write a model's control file, see `triton_models/faulty/1/staging.py`; nothing undoes it."""
    write_whole(_control(stage, victim, model), json.dumps(control))


def _control(stage: MeshStage, victim: str, model: str) -> Path:
    return _copy(stage, victim, model) / ".control.json"


def _copy(stage: MeshStage, victim: str, model: str) -> Path:
    return stage.folder / victim / "models" / model
