"""What a real Envoy does with what is in flight on a host that it takes for ill: nothing."""

import asyncio
from copy import deepcopy
from typing import Any

import grpc
import pytest

from sidecar.xds import resources
from tests.integration.xds_rig import PATIENCE, Rig, eventually

pytestmark = pytest.mark.integration

# As Envoy's health check sees it, and as EDS tells it.
FAILS, UNHEALTHY, REMOVED = "fails", "unhealthy", "removed"


@pytest.fixture
def closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters that Envoy is told to close connections of, and hosts that are UNHEALTHY there."""
    of_cluster, of_endpoints = resources.cluster, resources.load_assignment

    def cluster(*given: Any, **named: Any) -> Any:
        message = deepcopy(of_cluster(*given, **named))
        message.close_connections_on_host_health_failure = True
        return message

    def load_assignment(*given: Any) -> Any:
        message = of_endpoints(*given)
        for locality in message.endpoints:
            for endpoint in locality.lb_endpoints:
                if endpoint.health_status == 3:  # DRAINING
                    endpoint.health_status = 2  # UNHEALTHY
        return message

    monkeypatch.setattr(resources, "cluster", cluster)
    monkeypatch.setattr(resources, "load_assignment", load_assignment)


@pytest.mark.usefixtures("closing")
@pytest.mark.parametrize("how", [FAILS, UNHEALTHY, REMOVED])
async def test_a_host_that_is_given_up_keeps_what_is_in_flight(how: str) -> None:
    async with Rig.running("DELTA_GRPC") as rig:
        stream = rig.client.stream(timeout=PATIENCE)
        await stream.write(b"2")
        assert await stream.read() == b"a:0"
        rig.a.hang = True
        request = asyncio.create_task(rig.client.who())
        await eventually(lambda: rig.a.asked, "the request is in flight")
        if how == FAILS:
            rig.a.serving = False
        elif how == UNHEALTHY:
            rig.control_plane.publish(rig.a.instance(draining=True), rig.b.instance(), leader="a")
        else:
            rig.control_plane.publish(rig.b.instance(), leader="b")
        await eventually(lambda: _asked_elsewhere(rig), "new requests go elsewhere")
        await rig.client.count(20)
        assert not request.done()
        rig.a.hang = False
        rig.a.gate.set()
        assert await request == "a"
        assert await stream.read() == b"a:1"
        await stream.done_writing()
        assert await stream.code() == grpc.StatusCode.OK


async def _asked_elsewhere(rig: Rig) -> bool:
    """Whether a new request is answered by the other one; one that hangs is given up."""
    try:
        async with asyncio.timeout(0.5):
            return await rig.client.who() == "b"
    except TimeoutError:
        return False
