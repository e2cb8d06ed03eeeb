"""The start of a mesh: finds its programs, writes its files, runs the supervisor.

Acts: asyncio, os, shutil, signal.
"""

import asyncio
import dataclasses
import os
import secrets
import shutil
import signal
import sys
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

import sidecar
from sidecar.local import assets, consul_view, readiness
from sidecar.local.meshfile import write_whole
from sidecar.local.planning import acl, layout, models, ports
from sidecar.local.planning.plan import SERVICE, MeshOptions, Plan, Ports, Programs, Sources
from sidecar.local.processes import cleanup
from sidecar.local.processes.runner import StartFailed
from sidecar.local.processes.supervisor import Hook, Supervisor
from sidecar.local.programs import parts
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import ConfigError
from sidecar.runtime.threads import in_daemon_thread

# Another process may take a port between the plan and the part's attempt to listen on it.
_ATTEMPTS = 3
_TAIL = 20

Display = Callable[[Supervisor], Coroutine[Any, Any, None]]


def up(options: MeshOptions, display: Display) -> None:
    """Run a mesh until SIGINT or SIGTERM.

    Args:
        options: the options of the mesh.
        display: shows the mesh while it runs.

    Raises:
        ConfigError: a mesh runs there already, or something that it needs is missing.
        StartFailed: it did not come up; everything was stopped and removed.
        Unavailable: its files could not be written.
    """
    cleanup.prepare(options.folder)
    with cleanup.on_disk(options.folder), cleanup.claim(options.folder):
        cleanup.refuse_running(options.folder)
        cleanup.sweep(options.folder)
        programs, sources = find_programs(), read_sources(options)
        for attempt in range(1, _ATTEMPTS + 1):
            with ports.reserve(Ports.needed(options.instances)) as drawn:
                try:
                    _run(options, Ports.assign(drawn), programs, sources, display)
                    return
                except StartFailed as error:
                    cleanup.sweep(options.folder)
                    taken = [port for port in drawn if ports.in_use(port)]
                    if attempt == _ATTEMPTS or not taken:
                        raise _with_log(error, options.folder) from error
                finally:
                    cleanup.sweep(options.folder)


def find_programs() -> Programs:
    """The programs of this machine that a mesh needs.

    Raises:
        PartMissing: one is missing.
    """
    consul = parts.find("consul")
    root = Path(sidecar.__file__).resolve().parent.parent
    return Programs(
        consul=consul,
        consul_version=parts.consul_version(consul),
        envoy=parts.find("envoy"),
        triton=parts.triton(),
        python=Path(sys.executable),
        checkout=root if (root / "pyproject.toml").is_file() else None,
    )


def read_sources(options: MeshOptions) -> Sources:
    """The assets and models of a plan.

    Raises:
        ConfigError: one is missing or malformed.
    """
    bootstrap = assets.folder("envoy") / "bootstrap.yaml"
    try:
        document = yaml.safe_load(bootstrap.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{bootstrap}: expected Envoy's bootstrap as YAML: {error}") from error
    return Sources(document, models.find(options.models, demo=options.demo_models))


def _run(
    options: MeshOptions, drawn: Ports, programs: Programs, sources: Sources, display: Display
) -> None:
    management, tokens = str(uuid.uuid4()), acl.Tokens.generate()
    agent = acl.agent_config(management) if options.acl else {}
    made = layout.build(secrets.token_hex(4), options, drawn, programs, sources, os.environ, agent)
    texts = dict(made.files)
    if options.acl:
        by_role = {"management": management, **dataclasses.asdict(tokens)}
        texts |= {options.folder / "tokens" / role: text for role, text in by_role.items()}
    _write(made, texts)

    def grant() -> None:
        policies = assets.folder("consul") / "policies"
        acl.bootstrap_acl(made.mesh.consul.http, management, policies, SERVICE, tokens=tokens)

    after = {"consul": lambda: in_daemon_thread(grant, "ACL")} if options.acl else {}
    asyncio.run(_live(made, tuple(sources.models), after, display))


def _write(made: Plan, texts: Mapping[Path, str]) -> None:
    for part in made.parts:
        if part.kind == "triton":
            shutil.rmtree(part.cwd, ignore_errors=True)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    for place, target in made.links.items():
        place.symlink_to(target)
    for part in made.parts:
        part.log.unlink(missing_ok=True)  # of an earlier mesh
    for place, model in made.copies.items():
        shutil.copytree(model, place, ignore=shutil.ignore_patterns("__*__"))


async def _live(
    made: Plan,
    served: Sequence[str],
    after: Mapping[str, Hook],
    display: Display,
) -> None:
    requests = _StopRequests()
    supervisor = Supervisor(made, SystemClock(), after)
    showing = asyncio.create_task(display(supervisor), name="display")
    try:
        await requests.unless_stopped(_serve(supervisor, served))
    finally:
        hurry = asyncio.create_task(requests.hurry(supervisor.kill), name="hurry")
        await supervisor.stop()
        hurry.cancel()
        showing.cancel()
        with suppress(asyncio.CancelledError):
            await showing


async def _serve(supervisor: Supervisor, served: Sequence[str]) -> None:
    await supervisor.start()
    mesh = supervisor.plan.mesh
    async with consul_view.connect(mesh) as api:
        await readiness.until_ready(mesh, api, served)
    supervisor.ready()
    await supervisor.watch()


class _StopRequests:
    """SIGINT, SIGTERM and SIGHUP: the first stops gracefully, the second at once."""

    def __init__(self) -> None:
        self._first, self._second = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled)

    async def unless_stopped(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine until it is done or a signal asks to stop."""
        work = asyncio.create_task(coroutine, name="mesh")
        stop = asyncio.create_task(self._first.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            stop.cancel()
            work.cancel()
            await asyncio.wait({work})

    async def hurry(self, act: Callable[[], None]) -> None:
        """Call `act` after the second signal."""
        await self._second.wait()
        act()

    def _signalled(self) -> None:
        (self._second if self._first.is_set() else self._first).set()


def _with_log(error: StartFailed, folder: Path) -> StartFailed:
    log = folder / "logs" / f"{error.part}.log"
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
    except OSError:
        lines = []
    quoted = "\n".join(f"  | {line}" for line in lines) or "  (empty)"
    why = str(error).removeprefix(f"{error.part}: ")
    return StartFailed(error.part, f"{why}\nend of {log}:\n{quoted}")
