"""Waits until no request is in flight on this instance, according to the control planes.

Only Envoy knows what is in flight. Each control plane reports how many of its Envoys have
acknowledged that the instance gets no new requests, and how many requests they still have on it.

Acts: through what it imports or is given.
"""

from collections.abc import Callable

from sidecar.control_planes import rpc
from sidecar.control_planes.membership import PlaneReports
from sidecar.control_planes.rpc import Drain
from sidecar.control_planes.watch import PlaneDirectory
from sidecar.runtime.clock import Clock


async def wait_until_idle(
    directory: PlaneDirectory,
    service: str,
    instance: str,
    clock: Clock,
    warn: Callable[[str], None],
) -> None:
    """Return once every control plane has reported that nothing is in flight.

    If provably no control plane is registered, no Envoy follows the catalog, and there is nothing
    to wait for. While Consul or a control plane does not answer, it waits: the caller sets the
    deadline. `warn` is called with the reason why some control planes may not be visible.
    """
    async with rpc.watch_drain(directory, service, instance, clock) as reports:
        async for reported in rpc.with_warnings(reports, warn):
            if idle(reported):
                return


def idle(reported: PlaneReports[Drain]) -> bool:
    """Whether it is certain that nothing is in flight, from the control planes' reports.

    A control plane that left while its Envoys had work no longer counts once others report for all
    of those Envoys.
    """
    done_reports = [report for report in reported.reports if report is not None and report.done]
    if reported.incomplete or len(done_reports) < len(reported.reports):
        return False
    spoken_for = frozenset[str]().union(*(report.nodes for report in done_reports))
    departed = [report for report in reported.departed if report is not None and not report.done]
    return all(report.nodes and report.nodes <= spoken_for for report in departed)
