"""Waiting until the work in flight on this instance is done, as the control planes see it.

Only Envoy knows what is in flight. Each control plane tells how many of its Envoys have
acknowledged that the instance gets no new request, and what they still report as running on it.
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

    Where it is proven that no control plane is registered no Envoy follows the catalog, and there
    is nothing to wait for. While Consul or a control plane does not answer it waits: the caller
    sets the deadline. `warn` is told why there may be control planes that are not seen.
    """
    async with rpc.watch_drain(directory, service, instance, clock) as reports:
        async for reported in rpc.with_warnings(reports, warn):
            if idle(reported):
                return


def idle(reported: PlaneReports[Drain]) -> bool:
    """Whether certainly nothing is in flight, going by the control planes' reports.

    One that left while its Envoys had work counts as gone once others report for all those Envoys.
    """
    done_reports = [report for report in reported.reports if report is not None and report.done]
    if reported.incomplete or len(done_reports) < len(reported.reports):
        return False
    spoken_for = frozenset[str]().union(*(report.nodes for report in done_reports))
    departed = [report for report in reported.departed if report is not None and not report.done]
    return all(report.nodes and report.nodes <= spoken_for for report in departed)
