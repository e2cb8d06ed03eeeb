"""Where the objects of `triton-sidecar run` meet: start order, loops, stop order."""

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import grpc.aio
import structlog

from sidecar.consul.api import ConsulApi
from sidecar.consul.client import Consul
from sidecar.control_planes import rpc
from sidecar.control_planes.watch import Register
from sidecar.election.keys.orders import HAND_OVER
from sidecar.election.lease import Role
from sidecar.election.participant import Participant, SidecarPorts
from sidecar.events import (
    DrainCutShort,
    DrainDoubted,
    GpuMissing,
    Hook,
    ModelFilesAstray,
    ModelMemoryFailed,
    ModelSetRead,
    RequestFailed,
    fan_out,
)
from sidecar.gpu.api import GpuApi, select
from sidecar.gpu.client import Gpu
from sidecar.gpu.triton_metrics import TritonMetrics
from sidecar.health import server as health_server
from sidecar.health.gpu import lacking
from sidecar.health.probes.gpu_probe import GpuProbe
from sidecar.health.probes.prober import Loop, Prober
from sidecar.health.progress import Loads
from sidecar.health.report import report
from sidecar.health.track import STALE
from sidecar.lifecycle import Life, Step, Tasks, cut_short, end, live
from sidecar.models.dependencies import described
from sidecar.models.loaded_set import LoadedSet
from sidecar.models.loaded_set_file import LoadedSetFile
from sidecar.models.model_set_watch import ModelSetWatch
from sidecar.notify.documents import Sender
from sidecar.notify.notifier import Notifier
from sidecar.recovery import actions, other_instances
from sidecar.recovery.loop import Recovery
from sidecar.recovery.model_loading import ServedModels
from sidecar.registry.connection_reset import cut
from sidecar.registry.drain import wait_until_idle
from sidecar.registry.publisher import Publisher
from sidecar.registry.registration import HOT, InstanceInfo, InstanceMeta
from sidecar.registry.withdrawal import CUT, Withdrawal
from sidecar.runtime import listening
from sidecar.runtime.addresses import split_address
from sidecar.runtime.clock import Clock, SystemClock
from sidecar.runtime.errors import ConfigError, SidecarError, Unavailable
from sidecar.runtime.threads import in_daemon_thread
from sidecar.settings import SidecarSettings, changes
from sidecar.settings.canaries import build_all
from sidecar.telemetry import logs, metrics
from sidecar.triton.api import TritonApi
from sidecar.triton.client import Triton
from sidecar.triton.stubs import Stubs
from sidecar.verdict.evidence import SERVER, Layer, Level
from sidecar.verdict.verdict import Verdict

_RETRY = 0.5  # seconds until Consul is asked again for what it did not answer
_STEP = 5.0  # seconds for a step of stopping that only talks to Consul
_TOLD_WITHIN = 2.0  # seconds for hooks and notifications of what stopping has changed
_REMEMBERED_WITHIN = 2.0  # seconds for a file on a disk that may hang
# What a reload takes over while the sidecar runs.
_RELOADABLE = (
    *("health.", "canary.", "drain.", "gpu.", "recovery.", "triton.canaries"),
    *("service.tags", "service.weight", "service.meta", "service.capacity", "service.zone"),
    "election.",
)
# But for these.
_FIXED = frozenset(
    {
        *("health.max_answer", "gpu.enabled", "gpu.devices", "election.mode", "election.standby"),
        *("election.session_ttl", "election.lock_delay", "election.promotion_timeout"),
        *("election.promotion_pause", "election.warm_up", "election.unload"),
    }
)


# Consul is out of reach while a primary is unconfirmed, and others go on by what it said last.
_TOLD = {Role.UNCONFIRMED: Role.PRIMARY}


async def run(load: Callable[[], SidecarSettings]) -> int:
    """Run the sidecar until it is told to stop; gives the exit status.

    Args:
        load: reads the settings; called at the start and at each reload.

    Raises:
        ConfigError: the settings, or an address cannot be bound, or a file that the settings
            name cannot be read.
    """
    settings = load()
    logs.configure(settings.log.level, settings.log.format)
    instance = describe(settings)
    log = structlog.get_logger().bind(instance=instance.id)
    measured = metrics.MetricsHook([role.value for role in Role])
    clock, told = SystemClock(), fan_out(measured, logs.LogHook(log))
    sender = Sender(instance.service, instance.id)
    notifier = Notifier(settings.hooks.rules, settings.receivers, sender, clock, told)
    hook = fan_out(told, notifier)
    if address := settings.listen.metrics:
        metrics.serve(measured.registry, "listen.metrics", address)
    settings.consul.access.read_token()

    def failed(operation: str, error: SidecarError) -> None:
        hook(RequestFailed("consul", operation, error))

    async with (
        Triton(
            settings.triton.grpc, settings.health.max_answer, settings.triton.read_headers
        ) as triton,
        Consul(settings.consul.access, failed) as consul,
        Gpu(gpus := select(settings.gpu.devices, os.environ)) as gpu,
    ):
        address = settings.triton.metrics
        doors = Doors(triton, consul, gpu, TritonMetrics(address, gpus) if address else None)
        return await Sidecar(load, settings, doors, notifier, clock, hook).run()


def describe(settings: SidecarSettings) -> InstanceInfo:
    """What the settings say of the instance."""
    return InstanceInfo(
        id=settings.instance,
        service=settings.service.name,
        address=settings.service.address,
        port=settings.service_port,
        weight=settings.service.weight,
        tags=settings.service.tags,
        meta=tuple(sorted(settings.service.meta.items())),
        models=tuple(sorted(settings.triton.models)),
        sidecar=settings.listen.dialled,
        liveness=health_server.LIVENESS,
        forget_after=settings.service.forget_after,
        capacity=settings.service.capacity,
        zone=settings.service.zone or "",
    )


@dataclass(frozen=True, slots=True)
class Doors:
    """The outside systems; `gpu_fallback` is asked where NVML is not to be had."""

    triton: TritonApi
    consul: ConsulApi
    gpu: GpuApi
    gpu_fallback: GpuApi | None = None


class Sidecar:
    """The loops of one sidecar, wired together through `Latest` cells."""

    def __init__(
        self,
        load: Callable[[], SidecarSettings],
        settings: SidecarSettings,
        doors: Doors,
        notifier: Notifier,
        clock: Clock,
        hook: Hook,
    ) -> None:
        self._load = load
        self._notifier = notifier
        self._settings = settings
        self._instance = instance = describe(settings)
        self._triton = doors.triton
        self._consul = consul = doors.consul
        self._clock = clock
        self._hook = hook
        self._memory = self._remember(settings)
        memory = self._memory.read() if self._memory else LoadedSet()
        self._prober = Prober(
            doors.triton,
            instance.models,
            build_all(settings),
            settings.health.rules,
            clock,
            hook,
            Loads.since(memory.counted),
            Stubs(settings.triton.grpc),
            memory.proven,
        )
        self._assessment = self._prober.assessment
        self._gpus = GpuProbe(
            doors.gpu,
            settings.gpu.watch,
            clock,
            lambda findings: self._assessment.observe(*findings),
            lambda why, hidden: hook(GpuMissing(why, hidden)),
            doors.gpu_fallback,
            lambda: _processes_of(settings.triton.grpc),
        )
        self._expect_gpus(settings)
        self._recovery = self._recover(settings, doors.triton)
        self._publisher = Publisher(
            consul, self._assessment.verdict, self._wished, self._tell_verdict, clock, hook
        )
        self._model_set = ModelSetWatch(
            self._prober.identity,
            self._prober.loads,
            settings.triton.repository,
            settings.triton.models,
            settings.triton.repository_interval,
            clock,
            lambda why: hook(ModelSetRead(why)),
            lambda models: hook(ModelFilesAstray(models)),
            memory,
            settings.triton.depends_on,
            lambda models: described(doors.triton, models, settings.triton.depends_on),
        )
        self._withdrawal = Withdrawal(
            settings.drain.rules, self._idle, lambda: cut(settings.triton.port), clock, hook
        )
        self._candidate = Participant(
            settings.election.rules,
            instance,
            consul,
            self._assessment,
            self._surroundings(),
            clock,
            hook,
        )

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT, then stop gracefully; gives the exit status."""
        server = await self._serve()
        self._tell_cut_short()
        life = Life(
            loops={
                **self._prober.loops(),
                "push the verdict": self._publisher.push,
                "keep the registration": self._publisher.keep,
                "heed the checks of others": self._publisher.watch,
                **self._candidate.loops(),
                **self._notifier.loops(),
                "recover": self._recovery.run,
                "heed the pause": self._heed_pause,
                "end a withdrawal": lambda: self._withdrawal.watch(self._assessment.verdict),
                "tell the weight": self._tell_weight,
                "tell what is served": self._tell_identity,
                "read the model set": self._model_set.run,
                "tell the model set": self._tell_model_set,
                **self._optional_loops(),
            },
            status=lambda: self._assessment.verdict.value.summary,
            reload=self._reload,
            stop=lambda tasks: self._stop(server, tasks),
        )
        return await live(life, self._clock, self._hook)

    def _surroundings(self) -> SidecarPorts:
        """What the election has to know and do outside of itself."""
        own = self._instance

        async def idle() -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle(), self._settings.drain.timeout)

        async def count(seconds: float) -> tuple[int, int] | None:
            told = await rpc.failures(self._register(), own.service, seconds)
            if told and told.unknown:
                raise Unavailable(f"{told.unknown} control planes do not answer, or are not seen")
            return (told.requests, told.failures) if told else None

        return SidecarPorts(
            triton=self._triton,
            models=self._settings.triton.models,
            published=self._publisher.published,
            maintained=self._publisher.maintained,
            model_set=self._model_set.digest,
            headroom=self._missing_headroom,
            ask=self._ask_canaries,
            idle=idle,
            count=count,
            unloaded=self._prober.forget_identity,
            nudge=self._publisher.nudge,
        )

    async def _idle(self) -> None:
        """Return when nothing is in flight on the instance."""
        own, register = self._instance, self._register()
        await wait_until_idle(
            register, own.service, own.id, self._clock, lambda why: self._hook(DrainDoubted(why))
        )

    def _register(self) -> Register:
        return Register(self._consul, self._settings.drain.control_plane, self._instance.service)

    async def _ask_canaries(self) -> str:
        """Ask every canary once, now; what is wrong with the answers, or nothing."""
        found = await self._prober.examine()
        wrong = [each.finding for each in found if each.finding.level is Level.CRITICAL]
        return "; ".join(f"{each.subject}: {each.reason} {each.detail}" for each in wrong)

    def _missing_headroom(self) -> str:
        """What the GPUs lack for models to be loaded, or nothing."""
        floor = self._settings.election.gpu_headroom
        return "" if floor is None else lacking(self._gpus.readings.value, floor)

    def _expect_gpus(self, settings: SidecarSettings) -> None:
        """What is known of the GPUs is to be found out anew; a look may ask NVML, then Triton."""
        seconds = settings.gpu.interval + 2 * settings.gpu.timeout
        self._assessment.expect({(Layer.GPU, SERVER): STALE * seconds})

    def _recover(self, settings: SidecarSettings, triton: TritonApi) -> Recovery:
        """Recovery, by the action that there is, or by loading models alone."""
        own, action = self._instance, settings.recovery.action
        return Recovery(
            self._assessment.verdict,
            lambda: other_instances.look(self._consul, own.service, own.id),
            settings.recovery.rules,
            actions.build(action.restart, settings.triton.grpc) if action else None,
            self._clock,
            self._hook,
            ServedModels(triton, settings.triton.models),
        )

    def _remember(self, settings: SidecarSettings) -> LoadedSetFile | None:
        """Where it is kept what is loaded, if it is."""
        if (path := settings.triton.state) is None:
            return None
        own, hook = self._instance.id, self._hook
        return LoadedSetFile(path, own, self._clock, lambda why: hook(ModelMemoryFailed(why)))

    def _known(self) -> LoadedSet:
        """What is loaded, with the counters of now: those in `loads` are as of the load."""
        prober = self._prober
        return LoadedSet(
            models=self._model_set.known(), counted=prober.counted, proven=prober.proven
        )

    def _remembered(self) -> Iterable[Step]:
        """The step of stopping that keeps the last counters."""
        if memory := self._memory:
            write = partial(memory.write, self._known)
            yield Step("save_model_state", write, _REMEMBERED_WITHIN, skippable=True)

    def _optional_loops(self) -> dict[str, Loop]:
        loops: dict[str, Loop] = {}
        if memory := self._memory:
            cells = self._model_set.loaded, self._prober.loads
            loops["remember the model set"] = lambda: memory.run(self._known, *cells)
        if self._settings.gpu.enabled != "off":
            loops |= {"watch the GPUs": self._gpus.run, "tell the GPUs": self._tell_gpus}
            loops["forgive the GPUs"] = self._forgive_gpus
        return loops

    async def _serve(self) -> grpc.aio.Server:
        """Start grpc.health.v1: it says NOT_SERVING until the first proof."""
        # Without port reuse, or a second sidecar on this port would answer half of the checks.
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        models, may_serve = frozenset(self._instance.models), self._candidate.may_serve
        health_server.add_to(server, self._candidate.shown, models, may_serve)
        listening.add_port(server, "listen.grpc", self._settings.listen.grpc)
        await server.start()
        return server

    def _stop(self, server: grpc.aio.Server, tasks: Tasks) -> Iterable[Step]:
        """NOT_SERVING and out of the catalog first; the lock only when the work is done."""
        drain = self._settings.drain

        async def not_serving() -> None:
            self._assessment.drain("shutting down")
            self._candidate.reconsider()

        async def deregistered() -> None:
            # What an operator has put into maintenance stays there while its sidecar is replaced;
            # Consul forgets the entry if no sidecar comes back.
            while not self._publisher.stays:
                try:
                    await self._publisher.deregister()
                    return
                except Unavailable:  # the door has reported it; the step has a deadline
                    await self._clock.sleep(self._clock.jitter(_RETRY, 0.2))

        return [
            Step("hand_over", self._candidate.hand_over, HAND_OVER, skippable=True),
            Step("stop_serving", not_serving, 1.0),
            Step("withdraw", self._publisher.withdraw, _STEP),
            Step("drain", self._withdrawal.drain, drain.timeout, skippable=True),
            Step(CUT, self._withdrawal.cut, _STEP),
            Step("release_role", self._candidate.leave, _STEP),
            Step("flush_notifications", self._notifier.settled, _TOLD_WITHIN, skippable=True),
            *self._remembered(),
            Step("end_loops", lambda: end(tasks), 2 * _STEP),  # an action may be one of them
            Step("deregister", deregistered, _STEP),
            Step("close_server", lambda: server.stop(0.2), 1.0),
        ]

    async def _reload(self) -> str:
        """Take over what can change while the sidecar runs, or nothing at all."""
        settings = await in_daemon_thread(self._load, "settings")
        changed = changes(self._settings, settings)
        fixed = sorted(key for key in changed if not key.startswith(_RELOADABLE) or key in _FIXED)
        if fixed:
            raise ConfigError(f"{', '.join(fixed)}: cannot change without a restart")
        instance = describe(settings)
        probes = await in_daemon_thread(partial(build_all, settings), "canaries")
        act = None
        if action := settings.recovery.action:
            building = partial(actions.build, action.restart, settings.triton.grpc)
            act = await in_daemon_thread(building, "recovery action")
        self._settings, self._instance = settings, instance
        self._prober.configure(probes, settings.health.rules)
        self._gpus.rules = settings.gpu.watch
        self._expect_gpus(settings)
        self._withdrawal.rules = settings.drain.rules
        self._tell_cut_short()
        self._recovery.configure(settings.recovery.rules, act)
        self._candidate.configure(settings.election.rules, instance)
        self._publisher.nudge()
        return ", ".join(sorted(changed)) or "nothing"

    def _tell_cut_short(self) -> None:
        if why := cut_short(self._settings.drain.timeout, os.environ):
            self._hook(DrainCutShort(why))

    async def _heed_pause(self) -> None:
        async for why in self._candidate.paused:
            self._recovery.pause(bool(why))

    async def _tell_weight(self) -> None:
        told = None
        async for verdict in self._assessment.verdict:
            if (tells := (verdict.weight, verdict.leaves)) != told:
                told = tells
                self._publisher.nudge()

    async def _tell_gpus(self) -> None:
        told = "", ""
        async for _ in self._gpus.readings:
            if (seen := (self._gpus.uuids, self._missing_headroom())) != told:
                told = seen
                self._candidate.reconsider()
                self._publisher.nudge()

    async def _forgive_gpus(self) -> None:
        async for _ in self._assessment.restarts:
            self._gpus.forget()

    async def _tell_identity(self) -> None:
        async for _ in self._prober.identity:
            self._publisher.nudge()

    async def _tell_model_set(self) -> None:
        async for _ in self._model_set.digest:
            self._candidate.reconsider()
            self._publisher.nudge()

    def _tell_verdict(self, verdict: Verdict) -> str:
        """A verdict as Consul's check is to show it."""
        return report(verdict, self._assessment.evidence)

    def _wished(self) -> tuple[InstanceInfo, InstanceMeta]:
        """What the registration is made of, as it should be now."""
        election, candidate = self._candidate.election, self._candidate
        told = _TOLD.get(candidate.role, candidate.role)
        standing = InstanceMeta(
            role=told.value,
            epoch=election.epoch,
            warning_percent=self._assessment.verdict.value.weight,
            triton_version=self._prober.identity.value.triton_version,
            model_set=self._model_set.digest.value,
            gpus=self._gpus.uuids,
            priority=self._settings.election.priority,
            standby=self._settings.election.standby if candidate.cold else HOT,
            unfit=candidate.unfit,
            settled_at=candidate.settled_at,
            paused=candidate.paused.value,
            differs=candidate.differs,
            mode=self._settings.election.mode,
            hands_over=not self._assessment.verdict.value.leaves,
        )
        return self._instance, standing


def _processes_of(triton: str) -> frozenset[int] | None:
    """Triton's processes, if they may be known."""
    from sidecar.recovery import triton_processes  # imports psutil, which few sidecars need

    return triton_processes.family(*split_address(triton))
