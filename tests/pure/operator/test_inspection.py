"""What Consul adds to the control planes' replies."""

from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.cli.xds import json_output, text_output
from sidecar.operator import inspection
from sidecar.operator.inspection import PlaneRef, PlaneReply, Replies
from sidecar.operator.operator_client import OperatorClient
from sidecar.registry.registration import InstanceInfo, InstanceMeta, registration
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import Rejected
from sidecar.v1.control_plane_pb2 import ExplainResponse, Placement
from tests.support.consul_model import FakeConsul

CLOCK = SystemClock()


def explained(*services: str) -> Replies[Any]:
    placements = [Placement(service=each, cluster=each, listed=True) for each in services]
    answers = ExplainResponse(placements=placements)
    return (
        PlaneReply(PlaneRef("p", "p"), answers),
        PlaneReply(PlaneRef("q", "q"), None, "no answer"),
    )


async def consul(settled_at: float | None) -> FakeConsul:
    found = FakeConsul()
    own = InstanceInfo("a", "t", "127.0.0.1", 1, 1, (), (), ("m",), "127.0.0.1:2", "live")
    await found.register_service(registration(own, InstanceMeta(settled_at=settled_at)))
    for check in (own.verdict_check, own.sidecar_check):
        await found.update_check(check, "passing", "")
    return found


def client(found: Any) -> OperatorClient:
    return OperatorClient(found, "other", "planes", "", "jane@desk", CLOCK, lambda: "id")


@pytest.mark.parametrize(
    ("after", "services", "settles"),
    [(600.0, ("t",), True), (-1.0, ("t",), False), (None, ("t",), False), (600.0, (), False)],
)
async def test_how_long_an_explained_instance_still_settles(
    after: float | None, services: tuple[str, ...], settles: bool
) -> None:
    found = await consul(None if after is None else CLOCK.wall() + after)
    seconds = await inspection.settling(client(found), explained(*services), "a")
    assert (seconds > 0) == settles


async def test_an_explanation_does_not_need_consul() -> None:
    async def refused(*_: object, **__: object) -> None:
        raise Rejected("Permission denied")

    found = SimpleNamespace(health_service=refused, kv_prefix=refused)
    assert await inspection.settling(client(found), explained("t"), "a") == 0.0


def test_settling_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    text_output.explanations(explained("t"), 2.3)
    assert capsys.readouterr().out.endswith(
        "settling, 3 s to go before it takes the role of primary\n"
    )
    text_output.explanations(explained("t"), 0.0)
    assert "settling" not in capsys.readouterr().out
    json_output.explanations(explained("t"), 2.3)
    assert '"settling_seconds": 2.3' in capsys.readouterr().out
