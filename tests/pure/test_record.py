from dataclasses import dataclass, field, replace

import pytest

from sidecar.health.verdict import Reason, State, Verdict
from sidecar.models.manifest import digest
from sidecar.registry.record import Instance, Standing, check_status, differences, registration
from sidecar.triton import ModelDescription

INSTANCE = Instance(
    id="triton-0",
    service="triton",
    address="10.0.0.7",
    port=8001,
    weight=3,
    tags=("blue",),
    meta=(("rack", "7"),),
    models=("chat",),
    sidecar="10.0.0.7:9001",
    liveness="live",
)
STANDING = Standing("primary", 42, "2.51.0", "abc")
CHECKS = frozenset({"triton-0:verdict", "triton-0:sidecar"})


@dataclass(frozen=True)
class Seen:
    address: str = "10.0.0.7"
    port: int = 8001
    tags: tuple[str, ...] = ("primary", "model:chat", "blue")
    meta: dict[str, str] = field(
        default_factory=lambda: {
            "rack": "7",
            "sidecar_grpc_port": "9001",
            "role": "primary",
            "epoch": "42",
            "triton_version": "2.51.0",
            "model_set": "abc",
        }
    )
    weight_passing: int = 3


def test_what_consul_is_told() -> None:
    body = registration(INSTANCE, STANDING)
    assert body["Tags"] == ["primary", "model:chat", "blue"]
    assert body["Meta"] == Seen().meta
    verdict, sidecar = body["Checks"]
    assert (verdict["CheckID"], verdict["TTL"]) == ("triton-0:verdict", "10s")
    assert sidecar["GRPC"] == "10.0.0.7:9001/live"
    known_to_consul_1_8 = {
        "CheckID", "Name", "Notes", "TTL", "GRPC", "Interval", "Timeout"
    }  # fmt: skip
    assert (verdict.keys() | sidecar.keys()) <= known_to_consul_1_8


def test_own_meta_wins_over_the_operators() -> None:
    body = registration(replace(INSTANCE, meta=(("role", "king"),)), STANDING)
    assert body["Meta"]["role"] == "primary"


@pytest.mark.parametrize(
    ("observed", "checks", "why"),
    [
        (Seen(), CHECKS, ""),
        (Seen(), CHECKS | {"_service_maintenance:triton-0"}, ""),
        (None, frozenset(), "not registered"),
        (Seen(port=1), CHECKS, "differs in address"),
        (Seen(tags=("standby",), weight_passing=1), CHECKS, "differs in tags, weight"),
        (Seen(meta={}), CHECKS, "differs in meta"),
        (Seen(), frozenset({"triton-0:verdict"}), "differs in checks triton-0:sidecar"),
    ],
)
def test_differences(observed: Seen | None, checks: frozenset[str], why: str) -> None:
    assert differences(INSTANCE, STANDING, observed, checks) == why


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (State.STARTING, "critical"),
        (State.PASSING, "passing"),
        (State.CRITICAL, "critical"),
        (State.DRAINING, "passing"),
    ],
)
def test_the_pushed_status(state: State, status: str) -> None:
    assert check_status(Verdict(state, Reason.OK)) == status


def test_the_digest_tells_sets_apart_and_ignores_their_order() -> None:
    chat = ModelDescription("chat", ("1",), b"c", decoupled=False)
    embed = ModelDescription("embed", ("1",), b"c", decoupled=False)
    assert digest([chat, embed]) == digest([embed, chat])
    others = [
        [chat],
        [chat, replace(embed, versions=("2",))],
        [chat, replace(embed, config=b"d")],
        [chat, replace(embed, name="embe", versions=("d1",))],
        [],
    ]
    assert len({digest(models) for models in [*others, [chat, embed]]}) == len(others) + 1
