"""The wiring of what a drill may do to this sidecar's own instance."""

from collections.abc import Callable
from functools import partial

from sidecar.consul.api import ConsulApi
from sidecar.events import Hook
from sidecar.injection import in_threads, other_instances
from sidecar.injection.loop import Injector, InjectorPorts
from sidecar.lifecycle import Step
from sidecar.notify.notifier import Notifier
from sidecar.runtime.clock import Clock
from sidecar.runtime.latest import Latest
from sidecar.settings import SidecarSettings
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State

_RESTORED_WITHIN = 10.0  # seconds for undoing a fault when the sidecar stops


def build(
    settings: SidecarSettings,
    consul: ConsulApi,
    verdict: Latest[Verdict],
    paused: Callable[[], str],
    notifier: Notifier,
    clock: Clock,
    hook: Hook,
) -> Injector:
    """The injector, which has no loops unless the settings permit a fault."""
    own, service, triton = settings.instance, settings.service.name, settings.triton.grpc
    ports = InjectorPorts(
        passing=lambda: verdict.value.state is State.PASSING,
        paused=paused,
        others=partial(other_instances.look, consul, service, own),
        prepare=lambda fault: in_threads.prepare(fault, triton),
        thaw=partial(in_threads.thaw, triton),
        announced=notifier.settled,
    )
    return Injector(settings.drill.rules, service, own, ports, consul, clock, hook)


def steps(settings: SidecarSettings, injector: Injector) -> list[Step]:
    """The step of stopping that undoes a fault, before anything else; none without drills."""
    return [Step("end_drill", injector.stop, _RESTORED_WITHIN)] if settings.drill.allow else []
