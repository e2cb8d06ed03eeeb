"""How each fault is caused on an instance of a real mesh, and removed.

A stage is an async context: the fault lasts as long as the context. The mesh serves the
models `faulty` and `faulty_stream`.
"""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from sidecar.local.meshfile import write_whole
from sidecar.local.processes import part_probe
from sidecar.runtime.errors import Unavailable
from tests.support.faults.faulty_load import STREAM, UNARY, faulty_load
from tests.support.mesh.mesh import LiveMesh
from tests.support.mesh.mesh_outside import ended, http, stubs, until
from tests.support.tcp_proxy import ProxiedMesh, Proxy

QUEUED = 200  # clients that make a queue
LOADING = 20  # seconds that a model takes to load

Stage = Callable[[LiveMesh, str], AbstractAsyncContextManager[None]]


# --- the models do as they are told -----------------------------------------------------------


def told(model: str = UNARY, **control: object) -> Stage:
    """A model shows a fault until the stage ends; see staging.py next to the model."""

    @asynccontextmanager
    async def stage(mesh: LiveMesh, victim: str) -> AsyncIterator[None]:
        _tell(mesh, victim, model, control)
        try:
            yield
        finally:
            _tell(mesh, victim, model, {})

    return stage


def _tell(mesh: LiveMesh, victim: str, model: str, control: object) -> None:
    write_whole(_copy(mesh, victim, model) / ".control.json", json.dumps(control))


def _copy(mesh: LiveMesh, victim: str, model: str) -> Path:
    return mesh.folder / victim / "models" / model


@asynccontextmanager
async def queue(mesh: LiveMesh, _: str) -> AsyncIterator[None]:
    """Many more clients, so that requests wait for a model that works well."""
    envoy, reference = mesh.now.envoy.grpc, mesh.now.instances[0].triton.grpc
    async with faulty_load(envoy, reference, unary=QUEUED, streams=0) as crowd:
        yield
        await until(lambda: len(crowd.unary.done) > 2 * QUEUED, "answers for a crowd")
    assert crowd.unary.failed == []
    assert crowd.unary.wrong == []


# --- processes and the network ----------------------------------------------------------------


def _stubs(mesh: LiveMesh, victim: str, *models: str) -> list[int]:
    return [stub for model in models for stub in stubs(mesh.pid(victim), model)]


def _stubs_killed(*models: str) -> Stage:
    @asynccontextmanager
    async def killed(mesh: LiveMesh, victim: str) -> AsyncIterator[None]:
        """Processes in which Triton runs models die, as by the kernel's out-of-memory killer."""
        for stub in _stubs(mesh, victim, *models):
            os.kill(stub, signal.SIGKILL)
        try:
            yield
        finally:
            for model in models:
                reloaded = partial(mesh.reloaded, victim, model)
                await until(reloaded, f"{model} loaded anew by {victim}")

    return killed


stub_killed, all_stubs_killed = _stubs_killed(UNARY), _stubs_killed(UNARY, STREAM)


@asynccontextmanager
async def all_stubs_frozen(mesh: LiveMesh, victim: str) -> AsyncIterator[None]:
    """SIGSTOP to those of both models, while Triton lives on."""
    found = _stubs(mesh, victim, UNARY, STREAM)
    for stub in found:
        os.kill(stub, signal.SIGSTOP)
    try:
        yield
    finally:
        for stub in found:
            with suppress(ProcessLookupError):  # its sidecar has killed its Triton
                os.kill(stub, signal.SIGCONT)


@asynccontextmanager
async def frozen(mesh: LiveMesh, victim: str) -> AsyncIterator[None]:
    """SIGSTOP to tritonserver and all that it started."""
    group = mesh.pid(victim)
    os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # its sidecar has killed it
            os.killpg(group, signal.SIGCONT)


@asynccontextmanager
async def cut(mesh: LiveMesh, victim: str) -> AsyncIterator[None]:
    """The gRPC port refuses connections while HTTP answers."""
    proxy = _proxy(mesh, victim)
    proxy.cut()
    try:
        await http("GET", f"http://{mesh.instance(victim).triton.http}/v2/health/ready")
        yield
    finally:
        await proxy.connect()


@asynccontextmanager
async def swallowed(mesh: LiveMesh, victim: str) -> AsyncIterator[None]:
    """Connections are accepted, and nothing is ever answered."""
    proxy = _proxy(mesh, victim)
    proxy.swallow()
    try:
        yield
    finally:
        await proxy.connect()


def _proxy(mesh: LiveMesh, instance: str) -> Proxy:
    assert isinstance(mesh, ProxiedMesh)
    return mesh.proxies[instance]


@asynccontextmanager
async def loading(mesh: LiveMesh, victim: str) -> AsyncIterator[None]:
    """Triton and its sidecar restart, and a model takes long to load."""
    part = mesh.sidecar_of(victim)
    with mesh.unsupervised():
        await ended(mesh.signal(part, signal.SIGTERM))
        _tell(mesh, victim, UNARY, {"load_seconds": LOADING})
        os.killpg(mesh.pid(victim), signal.SIGKILL)
    try:
        await until(lambda: _answers(mesh.instance(victim).sidecar.grpc), f"a new {part}")
        yield
    finally:
        _tell(mesh, victim, UNARY, {})


async def _answers(sidecar: str) -> bool:
    """Whether a sidecar is there, whatever it says."""
    try:
        await part_probe.health(sidecar)
    except Unavailable:
        return False
    return True


# --- the model repository ---------------------------------------------------------------------


@asynccontextmanager
async def unloaded(mesh: LiveMesh, victim: str) -> AsyncIterator[None]:
    """The model is unloaded behind the sidecar's back."""
    await mesh.repository(victim, UNARY, "unload")
    try:
        yield
    finally:
        await mesh.repository(victim, UNARY, "load")


@asynccontextmanager
async def another_version(mesh: LiveMesh, victim: str) -> AsyncIterator[None]:
    """Version 2 takes the place of version 1."""
    folder = _copy(mesh, victim, UNARY)
    await asyncio.to_thread(shutil.copytree, folder / "1", folder / "2")
    await mesh.repository(victim, UNARY, "load")
    try:
        yield
    finally:
        await asyncio.to_thread(shutil.rmtree, folder / "2")
        await mesh.repository(victim, UNARY, "load")


# --- the sidecar's own settings ---------------------------------------------------------------


def settings(before: str, after: str) -> Stage:
    """The sidecar's settings change, and it is told to reload them."""

    @asynccontextmanager
    async def stage(mesh: LiveMesh, victim: str) -> AsyncIterator[None]:
        path = mesh.folder / victim / "sidecar.toml"
        right = path.read_text()
        assert before in right
        write_whole(path, right.replace(before, after, 1))  # the table of `faulty` is the first
        mesh.signal(mesh.sidecar_of(victim), signal.SIGHUP)
        try:
            yield
        finally:
            write_whole(path, right)
            mesh.signal(mesh.sidecar_of(victim), signal.SIGHUP)

    return stage
