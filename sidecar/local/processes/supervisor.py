"""The supervisor of a mesh: the order in which its parts start and stop, and their state.

Acts: asyncio, os.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from sidecar.local import meshfile
from sidecar.local.meshfile import Mesh
from sidecar.local.planning.plan import Kind, Plan
from sidecar.local.processes import part_probe, state_file
from sidecar.local.processes.identity import Identity, identify
from sidecar.local.processes.runner import Runner
from sidecar.local.processes.state_file import MeshState, Phase
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import Unavailable
from sidecar.runtime.latest import Latest

# Envoy first, so that nothing is in flight when the rest stops. Sidecars before the control plane
# and Consul, because withdrawing an instance needs both; Tritons after the withdrawals.
_STOP_ORDER: tuple[frozenset[Kind], ...] = (
    frozenset({"envoy"}),
    frozenset({"sidecar"}),
    frozenset({"xds", "triton"}),
    frozenset({"consul"}),
)
# Seconds for requests in flight through Envoy to finish.
_DRAIN_TIMEOUT = 10.0
_RETRY = 5.0  # seconds until a failed write of the files is retried
_DRAIN = 1.0  # seconds after which a sidecar is made to skip its drain

Hook = Callable[[], Awaitable[None]]


class Supervisor:
    """Runs the parts of a plan. `record` is their state, which it writes to the mesh's folder.

    `after` has hooks that run as soon as the part of that name is up, before the parts that wait
    for it start.
    """

    def __init__(self, plan: Plan, clock: Clock, after: Mapping[str, Hook] | None = None) -> None:
        self.plan = plan
        self._after = after or {}
        self._phase: Phase = "starting"
        self._self = identify(os.getpid()) or Identity(os.getpid(), 0)
        restart = plan.options.restart
        self.runners = {
            part.name: Runner(part, clock, restart=restart, changed=self._changed)
            for part in plan.parts
        }
        self.record: Latest[MeshState] = Latest(self._state())
        self._works = {name: asyncio.Event() for name in self.runners}
        self._tasks: list[asyncio.Task[None]] = []
        self._unwritten = ""  # why the files are outdated
        self._again: asyncio.TimerHandle | None = None
        self._write()

    @property
    def mesh(self) -> Mesh:
        """The mesh with its current pids."""
        states = self.record.value.parts
        pids = {state.name: state.process.pid if state.process else None for state in states}
        return self.plan.mesh.with_pids(self._self.pid, pids)

    async def start(self) -> None:
        """Start each part as soon as those that it needs are up.

        Raises:
            StartFailed: one did not come up. `stop` stops the others.
        """
        try:
            async with asyncio.TaskGroup() as starting:
                for runner in self.runners.values():
                    starting.create_task(self._bring_up(runner))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    def ready(self) -> None:
        """Note that the mesh as a whole is up."""
        self._phase = "running"
        self._changed()

    async def stop(self) -> None:
        """Stop all parts in an order in which no request is lost; dead parts are skipped."""
        self._phase = "stopping"
        self._changed()
        await self._drain_envoy()
        for kinds in _STOP_ORDER:
            chosen = [runner for runner in self.runners.values() if runner.part.kind in kinds]
            stopping = asyncio.gather(*(runner.stop() for runner in chosen))
            if "sidecar" in kinds:
                # Envoy is gone, and with it all requests in flight.
                await asyncio.wait((stopping,), timeout=_DRAIN)
                for runner in chosen:
                    runner.hurry()
            await stopping
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def watch(self) -> None:
        """Wait for a runner to fail; raises its exception."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    def kill(self) -> None:
        """Kill everything now; a waiting `stop` then returns."""
        for runner in self.runners.values():
            runner.kill()

    async def _bring_up(self, runner: Runner) -> None:
        for name in runner.part.after:
            await self._works[name].wait()
        name = runner.part.name
        self._tasks.append(asyncio.create_task(runner.run(), name=name))
        await runner.until_running()
        if hook := self._after.get(name):
            await hook()
        self._works[name].set()

    async def _drain_envoy(self) -> None:
        """Have Envoy accept no new connections and finish the requests in flight."""
        envoy = self.runners["envoy"]
        if envoy.state.value.condition != "running":
            return
        admin = f"http://{self.plan.mesh.envoy.admin}"
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_DRAIN_TIMEOUT):
                # The first makes it close each connection after the current response.
                await part_probe.get(f"{admin}/healthcheck/fail", "POST")
                await part_probe.get(f"{admin}/drain_listeners", "POST")
                while await _in_flight(admin):  # noqa: ASYNC110 -- Envoy must be polled
                    await asyncio.sleep(0.1)

    def _changed(self) -> None:
        self.record.set(self._state())
        try:
            self._write()
        except OSError as error:  # a full disk, or a removed folder: the parts keep running
            self._report_write(error.strerror or str(error))
            self._retry()
        else:
            self._report_write("")

    def _retry(self) -> None:
        """Write the state again later, unless another change writes it before."""
        if self._again:
            self._again.cancel()
        self._again = asyncio.get_running_loop().call_later(_RETRY, self._changed)

    def _report_write(self, why: str) -> None:
        if why != self._unwritten:
            self._unwritten = why
            what = f"not written: {why}; the mesh keeps running" if why else "written again"
            print(f"{self.plan.options.folder}: {state_file.NAME} is {what}", file=sys.stderr)

    def _state(self) -> MeshState:
        plan = self.plan
        prefixes = tuple(part.shm_prefix for part in plan.parts if part.shm_prefix)
        states = tuple(runner.state.value for runner in self.runners.values())
        return MeshState(plan.id, self._phase, self._self, plan.ports.all, prefixes, states)

    def _write(self) -> None:
        folder = self.plan.options.folder
        state_file.save(folder, self.record.value)
        text = meshfile.dumps(self.mesh)
        meshfile.write_whole(folder / meshfile.NAME, text)


async def _in_flight(admin: str) -> int:
    """The number of client requests in flight in Envoy; admin requests do not count."""
    text = await part_probe.get(f"{admin}/stats?filter=downstream_rq_active")
    lines = [line.rpartition(": ") for line in text.splitlines()]
    return sum(
        int(value) for name, _, value in lines if name.startswith("http.") and "admin" not in name
    )
