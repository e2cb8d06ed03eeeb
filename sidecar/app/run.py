"""`triton-sidecar run`: opens the clients, builds the sidecar and runs it."""

import os
from collections.abc import Callable

import structlog

from sidecar.app.instance import describe
from sidecar.app.sidecar import Clients, Sidecar
from sidecar.consul.client import Consul
from sidecar.election.lease import Role
from sidecar.events import RequestFailed, fan_out
from sidecar.gpu.api import select
from sidecar.gpu.client import Gpu
from sidecar.gpu.triton_metrics import TritonMetrics
from sidecar.notify.documents import Sender
from sidecar.notify.notifier import Notifier
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import SidecarError
from sidecar.settings import SidecarSettings
from sidecar.telemetry import logs, metrics
from sidecar.triton.client import Triton


async def run(load: Callable[[], SidecarSettings]) -> int:
    """Run the sidecar until SIGTERM or SIGINT; returns the exit status.

    Args:
        load: reads the settings; called at the start and at each reload.

    Raises:
        ConfigError: the settings are wrong, an address cannot be bound, or a file that the
            settings name cannot be read.
    """
    settings = load()
    logs.configure(settings.log.level, settings.log.format)
    instance = describe(settings)
    log = structlog.get_logger().bind(instance=instance.id)
    measured = metrics.MetricsHook([role.value for role in Role])
    clock, recorded = SystemClock(), fan_out(measured, logs.LogHook(log))
    sender = Sender(instance.service, instance.id)
    notifier = Notifier(settings.hooks.rules, settings.receivers, sender, clock, recorded)
    hook = fan_out(recorded, notifier)
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
        clients = Clients(triton, consul, gpu, TritonMetrics(address, gpus) if address else None)
        return await Sidecar(load, settings, clients, notifier, clock, hook).run()
