"""Where the objects of `triton-sidecar run` meet: start order, loops, stop order."""

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import grpc.aio
import structlog

from sidecar.clock import Clock, SystemClock
from sidecar.consul import Consul
from sidecar.consul_api import ConsulApi
from sidecar.election.decision import Intent, Role
from sidecar.election.loop import Election
from sidecar.errors import ConfigError, SidecarError
from sidecar.events import GpuMissing, Hook, RequestFailed, fan_out
from sidecar.gpu import Gpu
from sidecar.gpu_api import GpuApi, select
from sidecar.gpu_metrics import TritonMetrics
from sidecar.health import server as health_server
from sidecar.health.gpu_watch import GpuWatch
from sidecar.health.inputs import build_all
from sidecar.health.probe import Loop, Prober
from sidecar.health.report import report
from sidecar.health.verdict import State, Verdict
from sidecar.lifecycle import Life, Step, Tasks, end, live
from sidecar.models.manifest import digest
from sidecar.recovery import actions, others
from sidecar.recovery.loop import Recovery, rules_of
from sidecar.registry.drain import wait_until_idle
from sidecar.registry.publish import Publisher
from sidecar.registry.record import Instance, Standing
from sidecar.settings import SidecarSettings, changes
from sidecar.settings.values import split_address
from sidecar.telemetry import logs, metrics
from sidecar.triton import Triton
from sidecar.triton_api import TritonApi

_STEP = 5.0  # seconds for a step of stopping that only talks to Consul
# What a reload takes over while the sidecar runs.
_RELOADABLE = (
    *("health.", "canary.", "drain.", "gpu.", "recovery.", "triton.canaries"),
    *("service.tags", "service.weight", "service.meta"),
)
_FIXED = frozenset({"health.max_answer", "gpu.enabled", "gpu.devices"})  # but for these


async def run(load: Callable[[], SidecarSettings]) -> int:
    """Run the sidecar until it is told to stop; gives the exit status.

    Args:
        load: reads the settings; called at the start and at each reload.

    Raises:
        ConfigError: the settings, or an address cannot be bound, or a file that the settings
            name cannot be read.
    """
    settings = load()
    logs.configure(settings.log)
    instance = describe(settings)
    log = structlog.get_logger().bind(instance=instance.id)
    measured = metrics.MetricsHook([role.value for role in Role])
    hook = fan_out(measured, logs.LogHook(log))
    if address := settings.listen.metrics:
        metrics.serve(measured.registry, "listen.metrics", address)
    settings.consul.read_token()

    def failed(operation: str, error: SidecarError) -> None:
        hook(RequestFailed("consul", operation, error))

    async with (
        Triton(settings.triton.grpc, settings.health.max_answer) as triton,
        Consul(settings.consul, failed) as consul,
        Gpu(gpus := select(settings.gpu.devices, os.environ)) as gpu,
    ):
        address = settings.triton.metrics
        doors = Doors(triton, consul, gpu, TritonMetrics(address, gpus) if address else None)
        return await Sidecar(load, settings, doors, SystemClock(), hook).run()


def describe(settings: SidecarSettings) -> Instance:
    """What the settings say of the instance."""
    return Instance(
        id=settings.instance,
        service=settings.service.name,
        address=settings.service.address,
        port=settings.triton.port,
        weight=settings.service.weight,
        tags=settings.service.tags,
        meta=tuple(sorted(settings.service.meta.items())),
        models=tuple(sorted(settings.triton.models)),
        sidecar=settings.listen.dialled,
        liveness=health_server.LIVENESS,
        forget_after=settings.service.forget_after,
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
        clock: Clock,
        hook: Hook,
    ) -> None:
        self._load = load
        self._settings = settings
        self._instance = instance = describe(settings)
        self._consul = consul = doors.consul
        self._clock = clock
        self._hook = hook
        self._prober = Prober(
            doors.triton, instance.models, build_all(settings), settings.health, clock, hook
        )
        self._assessment = self._prober.assessment
        self._gpus = GpuWatch(
            doors.gpu,
            settings.gpu,
            clock,
            lambda findings: self._assessment.observe(*findings),
            lambda why: hook(GpuMissing(why)),
            doors.gpu_fallback,
            lambda: _processes_of(settings.triton.grpc),
        )
        self._recovery = self._recover(settings)
        self._election = Election(consul, instance, settings.election, clock, hook)
        self._publisher = Publisher(
            consul, self._assessment.verdict, self._wished, self._tell_verdict, clock, hook
        )
        self._leaving = False

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT, then stop in order; gives the exit status."""
        server = await self._serve()
        life = Life(
            loops={
                **self._prober.loops(),
                "push the verdict": self._publisher.push,
                "keep the registration": self._publisher.keep,
                "elect": self._election.run,
                "watch the lock": self._election.watch,
                "intend": self._intend,
                "heed maintenance": self._heed_maintenance,
                "tell the role": self._tell_role,
                "tell the weight": self._tell_weight,
                "tell what is served": self._tell_identity,
                **self._optional_loops(),
            },
            status=lambda: self._assessment.verdict.value.summary,
            reload=self._reload,
            stop=lambda tasks: self._stop(server, tasks),
        )
        return await live(life, self._clock, self._hook)

    def _recover(self, settings: SidecarSettings) -> Recovery | None:
        """Recovery, if there is an action for it."""
        own, action = self._instance, settings.recovery.action
        if action is None:
            return None
        return Recovery(
            self._assessment.verdict,
            lambda: others.look(self._consul, own.service, own.id),
            rules_of(settings.recovery),
            actions.build(action, settings.triton.grpc),
            self._clock,
            self._hook,
        )

    def _optional_loops(self) -> dict[str, Loop]:
        loops: dict[str, Loop] = {}
        if self._settings.gpu.enabled != "off":
            loops |= {"watch the GPUs": self._gpus.run, "tell the GPUs": self._tell_gpus}
            loops["forgive the GPUs"] = self._forgive_gpus
        if self._recovery:
            loops["recover"] = self._recovery.run
        return loops

    async def _serve(self) -> grpc.aio.Server:
        """Start grpc.health.v1: it says NOT_SERVING until the first proof."""
        # Without port reuse, or a second sidecar on this port would answer half of the checks.
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        health_server.add_to(server, self._assessment.verdict, frozenset(self._instance.models))
        try:
            server.add_insecure_port(self._settings.listen.grpc)
        except RuntimeError as error:
            raise ConfigError(
                f"listen.grpc: expected an address that can be bound: {error}"
            ) from error
        await server.start()
        return server

    def _stop(self, server: grpc.aio.Server, tasks: Tasks) -> Iterable[Step]:
        """NOT_SERVING and out of the catalog first; the lock only when the work is done."""
        own, drain = self._instance, self._settings.drain

        async def not_serving() -> None:
            self._assessment.drain("told to stop")
            self._intend_now()

        async def drained() -> None:
            plane, clock = drain.control_plane, self._clock
            await wait_until_idle(self._consul, plane, own.service, own.id, clock)

        async def deregistered() -> None:
            # What an operator has put into maintenance stays there while its sidecar is replaced;
            # Consul forgets the entry if no sidecar comes back.
            if self._publisher.maintained.value is None:
                await self._consul.deregister_service(own.id)

        return [
            Step("stop serving", not_serving, 1.0),
            Step("withdraw", self._publisher.withdraw, _STEP),
            Step("drain", drained, drain.timeout, skippable=True),
            Step("give up the role", self._leave, _STEP),
            Step("end the loops", lambda: end(tasks), 2 * _STEP),  # an action may be one of them
            Step("deregister", deregistered, _STEP),
            Step("close the server", lambda: server.stop(0.2), 1.0),
        ]

    async def _reload(self) -> str:
        """Take over what can change while the sidecar runs, or nothing at all."""
        settings = await asyncio.to_thread(self._load)
        changed = changes(self._settings, settings)
        fixed = sorted(key for key in changed if not key.startswith(_RELOADABLE) or key in _FIXED)
        if (self._recovery is None) != (settings.recovery.action is None):
            fixed.append("recovery.action")
        if fixed:
            raise ConfigError(f"{', '.join(fixed)}: expected no change without a restart")
        instance, probes = describe(settings), await asyncio.to_thread(build_all, settings)
        action = settings.recovery.action
        act = actions.build(action, settings.triton.grpc) if action else None
        self._settings, self._instance = settings, instance
        self._prober.configure(probes, settings.health)
        self._gpus.settings = settings.gpu
        if self._recovery and act:
            self._recovery.configure(rules_of(settings.recovery), act)
        self._publisher.nudge()
        return ", ".join(sorted(changed)) or "nothing"

    async def _leave(self) -> None:
        """Give up the lock and the session, and wait until they are given up."""
        self._leaving = True
        self._intend_now()
        await self._election.closed()

    async def _intend(self) -> None:
        async for _ in self._publisher.published:
            self._intend_now()

    async def _heed_maintenance(self) -> None:
        async for why in self._publisher.maintained:
            self._assessment.maintain(why)
            self._intend_now()

    def _intend_now(self) -> None:
        """Seek the role while Consul has a verdict that serves and nobody asked for maintenance."""
        published = self._publisher.published.value
        draining = self._assessment.verdict.value.state is State.DRAINING
        if self._leaving or published is None or self._publisher.maintained.value is not None:
            intent = Intent.YIELD
        elif draining:  # whether Consul knows it yet or not
            intent = Intent.KEEP
        else:
            intent = Intent.SEEK if published.serving else Intent.YIELD
        self._election.intent.set(intent)

    async def _tell_role(self) -> None:
        async for _ in self._election.standing:
            self._publisher.nudge()

    async def _tell_weight(self) -> None:
        told = None
        async for verdict in self._assessment.verdict:
            if verdict.weight != told:
                told = verdict.weight
                self._publisher.nudge()

    async def _tell_gpus(self) -> None:
        told = ""
        async for _ in self._gpus.readings:
            if self._gpus.uuids != told:
                told = self._gpus.uuids
                self._publisher.nudge()

    async def _forgive_gpus(self) -> None:
        async for _ in self._assessment.restarts:
            self._gpus.forget()

    async def _tell_identity(self) -> None:
        async for _ in self._prober.identity:
            self._publisher.nudge()

    def _tell_verdict(self, verdict: Verdict) -> str:
        """A verdict as Consul's check is to show it."""
        return report(verdict, self._assessment.evidence)

    def _wished(self) -> tuple[Instance, Standing]:
        """What the registration is made of, as it should be now."""
        role, epoch = self._election.standing.value
        identity = self._prober.identity.value
        standing = Standing(
            role=Role.PRIMARY.value if role is not Role.STANDBY else Role.STANDBY.value,
            epoch=epoch,
            warning_percent=self._assessment.verdict.value.weight,
            triton_version=identity.triton_version,
            model_set=digest(identity.models) if identity.models else "",
            gpus=self._gpus.uuids,
        )
        return self._instance, standing


def _processes_of(triton: str) -> frozenset[int] | None:
    """Triton's processes, if they may be known."""
    from sidecar.recovery import processes  # imports psutil, which few sidecars need

    return processes.family(*split_address(triton))
