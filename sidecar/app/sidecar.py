"""One sidecar: its parts, the loops that run them, and what passes between them."""

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import grpc.aio

from sidecar.app import drills, reload
from sidecar.app.instance import current_meta, describe
from sidecar.app.shutdown import Shutdown
from sidecar.consul.api import ConsulApi
from sidecar.control_planes import rpc
from sidecar.control_planes.watch import PlaneDirectory
from sidecar.election.participant import Participant, SidecarPorts
from sidecar.events import (
    DrainUnverified,
    GpuMissing,
    Hook,
    ModelFilesDiffer,
    ModelSetRead,
    ModelStateSaved,
    StopTimeoutTooShort,
)
from sidecar.gpu.api import GpuApi
from sidecar.health import server as health_server
from sidecar.health.gpu import memory_shortage
from sidecar.health.probes.gpu_probe import GpuProbe
from sidecar.health.probes.prober import EarlierState, Loop, ProbedTriton, Prober
from sidecar.health.progress import Loads
from sidecar.health.report import report
from sidecar.health.track import STALE
from sidecar.lifecycle import Lifecycle, Step, Tasks, run_until_stopped, stop_timeout_problem
from sidecar.models.dependencies import described
from sidecar.models.loaded_set import LoadedSet
from sidecar.models.loaded_set_file import LoadedSetFile
from sidecar.models.model_set_watch import ModelSetReports, ModelSetWatch
from sidecar.notify.notifier import Notifier
from sidecar.recovery import actions, other_instances
from sidecar.recovery.loop import Recovery
from sidecar.recovery.model_loading import ServedModels
from sidecar.registry.connection_reset import cut
from sidecar.registry.drain import wait_until_idle
from sidecar.registry.publisher import Publisher
from sidecar.registry.registration import InstanceInfo, InstanceMeta
from sidecar.registry.withdrawal import Withdrawal
from sidecar.runtime import listening
from sidecar.runtime.addresses import split_address
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import Unavailable
from sidecar.settings import SidecarSettings
from sidecar.settings.canaries import build_all
from sidecar.triton.api import TritonApi
from sidecar.triton.python_stubs import Stubs
from sidecar.verdict.evidence import SERVER, Layer, Level
from sidecar.verdict.verdict import Verdict

_SAVED_WITHIN = 2.0  # seconds for a file on a disk that may hang


@dataclass(frozen=True, slots=True)
class Clients:
    """Clients of the outside systems; `gpu_fallback` is queried where there is no NVML."""

    triton: TritonApi
    consul: ConsulApi
    gpu: GpuApi
    gpu_fallback: GpuApi | None = None


class Sidecar:
    """The parts of one sidecar, wired together through `Latest` cells."""

    def __init__(
        self,
        load: Callable[[], SidecarSettings],
        settings: SidecarSettings,
        clients: Clients,
        notifier: Notifier,
        clock: Clock,
        hook: Hook,
    ) -> None:
        self._load = load
        self._notifier = notifier
        self._settings = settings
        self._instance = instance = describe(settings)
        self._triton = clients.triton
        self._consul = clients.consul
        self._clock = clock
        self._hook = hook
        self._state_file = self._open_state_file()
        saved = self._state_file.read() if self._state_file else LoadedSet()
        self._prober = self._build_prober(saved)
        self._assessment = self._prober.assessment
        self._gpus = self._build_gpu_probe(clients)
        self._expect_gpus()
        self._recovery = self._build_recovery()
        self._publisher = Publisher(
            self._consul,
            self._assessment.verdict,
            self._registration,
            self._check_output,
            clock,
            hook,
        )
        self._model_set = self._build_model_set_watch(saved)
        self._withdrawal = Withdrawal(
            settings.drain.rules, self._idle, lambda: cut(settings.triton.port), clock, hook
        )
        self._participant = Participant(
            settings.election.rules,
            instance,
            self._consul,
            self._assessment,
            self._ports(),
            clock,
            hook,
        )
        self._injector = drills.build(
            settings,
            self._consul,
            self._assessment.verdict,
            lambda: self._participant.paused.value,
            notifier,
            clock,
            hook,
        )

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT, then stop gracefully; returns the exit status."""
        server = await self._serve()
        self._warn_of_stop_timeout()
        life = Lifecycle(
            loops={
                **self._prober.loops(),
                "push the verdict": self._publisher.push,
                "keep the registration": self._publisher.keep,
                "watch the checks": self._publisher.watch,
                **self._participant.loops(),
                **self._notifier.loops(),
                "recover": self._recovery.run,
                "follow the pause": self._follow_pause,
                "end a withdrawal": lambda: self._withdrawal.watch(self._assessment.verdict),
                "publish the weight": self._publish_weight,
                "publish the identity": self._publish_identity,
                "read the model set": self._model_set.run,
                "publish the model set": self._publish_model_set,
                **self._optional_loops(),
            },
            status=lambda: self._assessment.verdict.value.summary,
            reload=self._reload,
            stop=lambda tasks: self._stop(server, tasks),
        )
        return await run_until_stopped(life, self._clock, self._hook)

    def _ports(self) -> SidecarPorts:
        """What the election reads of the other parts, and calls."""
        own = self._instance

        async def idle() -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle(), self._settings.drain.timeout)

        async def count(seconds: float) -> tuple[int, int] | None:
            counted = await rpc.failures(self._control_planes(), own.service, seconds)
            if counted and counted.unknown:
                why = "control planes do not answer, or are not seen"
                raise Unavailable(f"{counted.unknown} {why}")
            return (counted.requests, counted.failures) if counted else None

        return SidecarPorts(
            triton=self._triton,
            models=self._settings.triton.models,
            published=self._publisher.published,
            maintained=self._publisher.maintained,
            model_set=self._model_set.digest,
            headroom=self._missing_headroom,
            ask=self._examine_canaries,
            idle=idle,
            count=count,
            unloaded=self._prober.forget_identity,
            nudge=self._publisher.nudge,
        )

    async def _idle(self) -> None:
        """Return when no request is in flight on the instance."""
        own, register = self._instance, self._control_planes()
        await wait_until_idle(
            register, own.service, own.id, self._clock, lambda why: self._hook(DrainUnverified(why))
        )

    def _control_planes(self) -> PlaneDirectory:
        return PlaneDirectory(
            self._consul, self._settings.drain.control_plane, self._instance.service
        )

    async def _examine_canaries(self) -> str:
        """Send every canary once, now; returns what is wrong with those that count, or ""."""
        found = [each.finding for each in await self._prober.examine()]
        known = dict(self._assessment.verdict.value.unusable)
        bad = (each for each in found if each.level is Level.CRITICAL)
        wrong = [each for each in bad if each.subject not in known]
        return "; ".join(f"{each.subject}: {each.reason} {each.detail}" for each in wrong)

    def _missing_headroom(self) -> str:
        """What the GPUs lack for loading the models, or ""."""
        floor = self._settings.election.gpu_headroom
        return "" if floor is None else memory_shortage(self._gpus.readings.value, floor)

    def _build_prober(self, saved: LoadedSet) -> Prober:
        settings = self._settings
        return Prober(
            ProbedTriton(self._triton, self._instance.models, Stubs(settings.triton.grpc)),
            build_all(settings),
            settings.health.rules,
            self._clock,
            self._hook,
            EarlierState(Loads.since(saved.counted), saved.proven),
        )

    def _build_gpu_probe(self, clients: Clients) -> GpuProbe:
        address = self._settings.triton.grpc
        return GpuProbe(
            clients.gpu,
            self._settings.gpu.watch,
            self._clock,
            lambda findings: self._assessment.observe(*findings),
            lambda why, hidden: self._hook(GpuMissing(why, hidden)),
            clients.gpu_fallback,
            lambda: _processes_of(address),
        )

    def _expect_gpus(self) -> None:
        """Expire the GPU findings unless a new one comes: a probe queries NVML, then Triton."""
        gpu = self._settings.gpu
        seconds = gpu.interval + 2 * gpu.timeout
        self._assessment.expect({(Layer.GPU, SERVER): STALE * seconds})

    def _build_recovery(self) -> Recovery:
        """Recovery with the configured action; without one it only loads models."""
        own, settings, action = self._instance, self._settings, self._settings.recovery.action
        return Recovery(
            self._assessment.verdict,
            lambda: other_instances.look(self._consul, own.service, own.id),
            settings.recovery.rules,
            actions.build(action.restart, settings.triton.grpc) if action else None,
            self._clock,
            self._hook,
            ServedModels(self._triton, settings.triton.models),
        )

    def _build_model_set_watch(self, saved: LoadedSet) -> ModelSetWatch:
        triton = self._settings.triton
        return ModelSetWatch(
            self._prober.identity,
            self._prober.loads,
            triton.model_set,
            self._clock,
            ModelSetReports(
                lambda why: self._hook(ModelSetRead(why)),
                lambda models: self._hook(ModelFilesDiffer(models)),
            ),
            saved,
            lambda models: described(self._triton, models, triton.depends_on),
        )

    def _open_state_file(self) -> LoadedSetFile | None:
        """The file `triton.state`, if it is set."""
        if (path := self._settings.triton.state) is None:
            return None
        own, hook = self._instance.id, self._hook
        return LoadedSetFile(path, own, self._clock, lambda why: hook(ModelStateSaved(why)))

    def _loaded_set(self) -> LoadedSet:
        """What is loaded, with the current counters; those in `loads` are as of the load."""
        prober = self._prober
        return LoadedSet(
            models=self._model_set.known(), counted=prober.counted, proven=prober.proven
        )

    def _save_steps(self) -> Iterable[Step]:
        """The shutdown step that saves the last counters."""
        if file := self._state_file:
            write = partial(file.write, self._loaded_set)
            yield Step("save_model_state", write, _SAVED_WITHIN, skippable=True)

    def _optional_loops(self) -> dict[str, Loop]:
        loops = self._injector.loops()
        if file := self._state_file:
            cells = self._model_set.loaded, self._prober.loads
            loops["save the model set"] = lambda: file.run(self._loaded_set, *cells)
        if self._settings.gpu.enabled != "off":
            loops |= {"watch the GPUs": self._gpus.run, "publish the GPUs": self._publish_gpus}
            loops["reset the GPUs"] = self._reset_gpus
        return loops

    async def _serve(self) -> grpc.aio.Server:
        """Start grpc.health.v1; it answers NOT_SERVING until the first proof."""
        # No port reuse: a second sidecar on this port would answer half of the checks.
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        models, may_serve = frozenset(self._instance.models), self._participant.may_serve
        health_server.add_to(server, self._participant.shown, models, may_serve)
        listening.add_port(server, "listen.grpc", self._settings.listen.grpc)
        await server.start()
        return server

    def _stop(self, server: grpc.aio.Server, tasks: Tasks) -> Iterable[Step]:
        stopping = Shutdown(
            self._assessment,
            self._participant,
            self._publisher,
            self._withdrawal,
            self._notifier,
            server,
            self._save_steps(),
            self._settings.drain.timeout,
            self._clock,
        )
        return [*drills.steps(self._settings, self._injector), *stopping.steps(tasks)]

    async def _reload(self) -> str:
        """Apply what can change while the sidecar runs, or nothing; returns the changed keys."""
        new = await reload.prepare(self._load, self._settings)
        settings = self._settings = new.settings
        self._instance = new.instance
        self._prober.configure(new.canaries, settings.health.rules)
        self._gpus.rules = settings.gpu.watch
        self._expect_gpus()
        self._withdrawal.rules = settings.drain.rules
        self._warn_of_stop_timeout()
        self._recovery.configure(settings.recovery.rules, new.restart)
        self._participant.configure(settings.election.rules, new.instance)
        self._publisher.nudge()
        return ", ".join(sorted(new.changed)) or "nothing"

    def _warn_of_stop_timeout(self) -> None:
        if why := stop_timeout_problem(self._settings.drain.timeout, os.environ):
            self._hook(StopTimeoutTooShort(why))

    async def _follow_pause(self) -> None:
        async for why in self._participant.paused:
            self._recovery.pause(bool(why))

    async def _publish_weight(self) -> None:
        published = None
        async for verdict in self._assessment.verdict:
            if (current := (verdict.weight, verdict.withdrawn, verdict.unusable)) != published:
                published = current
                self._publisher.nudge()

    async def _publish_gpus(self) -> None:
        published = "", ""
        async for _ in self._gpus.readings:
            if (current := (self._gpus.uuids, self._missing_headroom())) != published:
                published = current
                self._participant.reconsider()
                self._publisher.nudge()

    async def _reset_gpus(self) -> None:
        async for _ in self._assessment.restarts:
            self._gpus.forget()

    async def _publish_identity(self) -> None:
        async for _ in self._prober.identity:
            self._publisher.nudge()

    async def _publish_model_set(self) -> None:
        async for _ in self._model_set.digest:
            self._participant.reconsider()
            self._publisher.nudge()

    def _check_output(self, verdict: Verdict) -> str:
        """The output of the instance's check in Consul for a verdict."""
        return report(verdict, self._assessment.evidence)

    def _registration(self) -> tuple[InstanceInfo, InstanceMeta]:
        """What the registration in Consul should now be built from."""
        meta = current_meta(
            self._settings,
            self._assessment.verdict.value,
            self._prober.identity.value.triton_version,
            self._model_set.digest.value,
            self._gpus.uuids,
            self._participant,
        )
        return self._instance, meta


def _processes_of(triton: str) -> frozenset[int] | None:
    """Triton's processes; None if the sidecar may not see them."""
    from sidecar.recovery import triton_processes  # imports psutil, which few sidecars need

    return triton_processes.family(*split_address(triton))
