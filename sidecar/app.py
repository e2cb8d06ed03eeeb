"""Where the objects of `triton-sidecar run` meet: start order, loops, stop order."""

import asyncio
import functools
import os
from collections.abc import Callable

import grpc.aio
import sdnotify
import structlog

from sidecar.clock import Clock, SystemClock
from sidecar.consul import Consul
from sidecar.election.decision import Intent, Role
from sidecar.election.loop import Election
from sidecar.errors import ConfigError, SidecarError
from sidecar.events import Hook, RequestFailed, fan_out
from sidecar.health import server as health_server
from sidecar.health.probe import Canary, Prober
from sidecar.health.verdict import State
from sidecar.models.manifest import digest
from sidecar.registry.drain import wait_until_idle
from sidecar.registry.publish import Publisher
from sidecar.registry.record import Instance, Standing
from sidecar.settings import SidecarSettings
from sidecar.shutdown import Step, StopSignals, perform
from sidecar.telemetry import logs, metrics
from sidecar.triton import Triton

_STEP = 5.0  # seconds for a step of stopping that only talks to Consul
_WATCHDOG = 5.0  # seconds between signs of life to systemd, well inside the units' WatchdogSec


async def run(settings: SidecarSettings) -> int:
    """Run the sidecar until it is told to stop; gives the exit status.

    Raises:
        ConfigError: an address cannot be bound, or a file that the settings name cannot be read.
    """
    logs.configure(settings.log)
    instance = describe(settings)
    log = structlog.get_logger().bind(instance=instance.id)
    measured = metrics.MetricsHook([role.value for role in Role])
    hook = fan_out(measured, logs.LogHook(log))
    if address := settings.listen.metrics:
        _bind("listen.metrics", lambda: metrics.serve(measured.registry, address))
    settings.consul.read_token()
    async with (
        Triton(settings.triton.grpc) as triton,
        Consul(
            settings.consul,
            lambda operation, error: hook(RequestFailed("consul", operation, error)),
        ) as consul,
    ):
        sidecar = Sidecar(settings, instance, triton, consul, SystemClock(), hook)
        return await sidecar.run()


def describe(settings: SidecarSettings) -> Instance:
    """What the settings say of the instance."""
    return Instance(
        id=settings.service.instance,
        service=settings.service.name,
        address=settings.service.address,
        port=settings.triton.port,
        weight=settings.service.weight,
        tags=settings.service.tags,
        meta=tuple(sorted(settings.service.meta.items())),
        models=tuple(sorted(settings.triton.models)),
        sidecar=settings.listen.dialled,
        liveness=health_server.LIVENESS,
    )


class Sidecar:
    """The loops of one sidecar, wired together through `Latest` cells."""

    def __init__(
        self,
        settings: SidecarSettings,
        instance: Instance,
        triton: Triton,
        consul: Consul,
        clock: Clock,
        hook: Hook,
    ) -> None:
        self._settings = settings
        self._instance = instance
        self._consul = consul
        self._clock = clock
        self._hook = hook
        canaries = [Canary.of(model, settings.canary[model]) for model in instance.models]
        self._prober = Prober(triton, canaries, settings.health, clock, hook)
        self._election = Election(consul, instance, settings.election, clock, hook)
        self._publisher = Publisher(
            consul, instance, self._prober.verdict, self._standing, clock, hook
        )
        self._leaving = False

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT, then stop in order; gives the exit status."""
        signals = StopSignals()
        server = await self._serve()
        loops = [
            asyncio.create_task(loop(), name=name)
            for name, loop in (
                ("probe", self._prober.run),
                ("publish", self._publisher.run),
                ("elect", self._election.run),
                ("watch the lock", self._election.watch),
                ("intend", self._intend),
                ("tell the role", self._tell_role),
                ("watchdog", self._watchdog),
            )
        ]
        stop = asyncio.create_task(signals.stop.wait(), name="stop")
        await asyncio.wait((stop, *loops), return_when=asyncio.FIRST_COMPLETED)
        ended = [loop for loop in loops if loop.done()]
        notify("STOPPING=1")
        await perform(self._stop_steps(server, loops), signals.skip, self._clock, self._hook)
        return _exit_status(ended)

    async def _serve(self) -> grpc.aio.Server:
        """Start grpc.health.v1: it says NOT_SERVING until the first proof."""
        server = grpc.aio.server()
        health_server.add_to(server, self._prober.verdict, frozenset(self._instance.models))
        address = self._settings.listen.grpc
        _bind("listen.grpc", lambda: server.add_insecure_port(address))
        await server.start()
        notify("READY=1")
        return server

    def _stop_steps(self, server: grpc.aio.Server, loops: list[asyncio.Task[None]]) -> list[Step]:
        """NOT_SERVING and out of the catalog first; the lock only when the work is done."""
        own, drain = self._instance, self._settings.drain

        async def not_serving() -> None:
            self._prober.drain("told to stop")

        async def drained() -> None:
            await wait_until_idle(self._consul, drain.control_plane, own.service, own.id)

        async def end() -> None:
            for loop in loops:
                loop.cancel()
            await asyncio.wait(loops)

        return [
            Step("stop serving", not_serving, _STEP),
            Step("withdraw", lambda: self._publisher.withdraw("stopping in order"), _STEP),
            Step("drain", drained, drain.timeout, skippable=True),
            Step("give up the role", self._leave, _STEP),
            Step("end the loops", end, _STEP),
            Step("deregister", lambda: self._consul.deregister_service(own.id), _STEP),
            Step("close the server", lambda: server.stop(0.2), _STEP),
        ]

    async def _leave(self) -> None:
        """Give up the lock and the session, and wait until they are given up."""
        self._leaving = True
        self._election.intent.set(Intent.YIELD)
        await self._election.closed()

    async def _intend(self) -> None:
        """Seek the role while Consul has confirmed that the verdict is passing."""
        async for published in self._publisher.published:
            if self._leaving or published is None:
                continue  # while Consul does not answer, nothing is known to have changed
            if published.state is State.DRAINING:
                self._election.intent.set(Intent.KEEP)
            else:
                self._election.intent.set(Intent.SEEK if published.serving else Intent.YIELD)

    async def _tell_role(self) -> None:
        async for _ in self._election.standing:
            self._publisher.nudge()

    def _standing(self) -> Standing:
        """The part of the registration that changes while the sidecar runs."""
        role, epoch = self._election.standing.value
        identity = self._prober.identity.value
        return Standing(
            role=Role.PRIMARY.value if role is not Role.STANDBY else Role.STANDBY.value,
            epoch=epoch,
            triton_version=identity.triton_version,
            model_set=digest(identity.models) if identity.models else "",
        )

    async def _watchdog(self) -> None:
        """Tell systemd that the event loop turns, and what the verdict is."""
        while True:
            notify(f"WATCHDOG=1\nSTATUS={self._prober.verdict.value.summary}")
            await self._clock.sleep(_WATCHDOG)


def notify(message: str) -> None:
    """Tell systemd; nothing happens where it did not start us."""
    if "NOTIFY_SOCKET" in os.environ:
        _notifier().notify(message)


@functools.cache
def _notifier() -> sdnotify.SystemdNotifier:
    return sdnotify.SystemdNotifier()


def _bind(key: str, listen: Callable[[], object]) -> None:
    try:
        listen()
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{key}: expected an address that can be bound: {error}") from error


def _exit_status(ended: list[asyncio.Task[None]]) -> int:
    """0 for an orderly stop; a loop that ended by itself is a defect, and is raised."""
    for loop in ended:
        loop.result()
        raise SidecarError(f"the loop {loop.get_name()!r} ended by itself")
    return 0
