from dataclasses import replace

import pytest

from sidecar.consul.api import Check, ServiceEntry, Status
from sidecar.models.manifest import digest
from sidecar.registry.checks import WITHDRAWN
from sidecar.registry.registration import (
    MAX_META,
    InstanceInfo,
    InstanceMeta,
    check_status,
    differences,
    maintenance,
    models_named,
    models_unusable,
    registration,
)
from sidecar.triton.api import ModelDescription
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State

IN_META = "differs in meta"

INSTANCE = InstanceInfo(
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
STANDING = InstanceMeta("primary", 42, 25, "2.51.0", "abc", "GPU-1,GPU-2")
CHECKS = tuple(
    Check(check_id, check_id, "passing", "", "triton-0")
    for check_id in ("triton-0:verdict", "triton-0:sidecar")
)
SEEN = ServiceEntry(
    node="",
    id="triton-0",
    name="triton",
    address="10.0.0.7",
    port=8001,
    tags=("primary", "model:chat", "blue"),
    meta={
        "rack": "7",
        "sidecar_grpc_port": "9001",
        "role": "primary",
        "epoch": "42",
        "triton_version": "2.51.0",
        "model_set": "abc",
        "gpu_uuids": "GPU-1,GPU-2",
        "hands_over": "true",
        "withdrawal_reason": WITHDRAWN,
    },
    weight_passing=300,
    weight_warning=75,
    checks=CHECKS,
)
MAINTENANCE = Check("_service_maintenance:triton-0", "maintenance", "critical", "", "triton-0")


def test_tags_say_which_models_an_instance_names_and_which_it_may_not_serve() -> None:
    """Tags, as a value in meta has no room for many names; any name comes back as it was."""
    odd = ("model:x", "model-unusable:A:b", "a,b=c", "chat")
    ill = (("a,b=c", "CANARY_FAILED"), ("model:x", "MODEL_HUNG"))
    own = replace(INSTANCE, models=odd, tags=("blue", "tagged:model:no"))
    tags = tuple(registration(own, replace(STANDING, unusable=ill))["Tags"])
    assert models_named(tags) == tuple(sorted(odd))
    assert models_unusable(tags) == ill
    assert differences(own, STANDING, replace(SEEN, tags=tags)).startswith("differs in tags")
    assert models_unusable(SEEN.tags) == ()


def test_the_registration_in_consul() -> None:
    body = registration(INSTANCE, STANDING)
    assert body["Tags"] == ["primary", "model:chat", "blue"]
    assert body["Meta"] == SEEN.meta
    verdict, sidecar = body["Checks"]
    assert (verdict["CheckID"], verdict["TTL"]) == ("triton-0:verdict", "10s")
    assert sidecar["GRPC"] == "10.0.0.7:9001/live"
    known_to_consul_1_8 = {
        "CheckID", "Name", "Notes", "TTL", "GRPC", "Interval", "Timeout",
        "FailuresBeforeCritical", "DeregisterCriticalServiceAfter",
    }  # fmt: skip
    # A Triton may stay unhealthy as long as it likes: only without its sidecar is it deregistered.
    assert "DeregisterCriticalServiceAfter" not in verdict
    assert (verdict.keys() | sidecar.keys()) <= known_to_consul_1_8


def test_strict_mode_is_in_the_meta() -> None:
    body = registration(INSTANCE, replace(STANDING, mode="strict"))
    assert body["Meta"] == {**SEEN.meta, "election_mode": "strict"}
    assert differences(INSTANCE, replace(STANDING, mode="strict"), SEEN) == IN_META


def test_all_of_the_sidecars_meta_fits() -> None:
    """Consul accepts 64 pairs."""
    full = InstanceMeta(
        *("primary", 42, 25, "2.51.0", "abc", "GPU-1"),
        priority=7, standby="cold", unfit="x", settled_at=1.0, paused="x", differs="x",
        mode="strict",
    )  # fmt: skip
    given = tuple((f"k{number}", "v") for number in range(MAX_META))
    instance = replace(INSTANCE, capacity=64, zone="east-1", meta=given)
    assert len(registration(instance, full)["Meta"]) == 64


def test_the_sidecars_meta_overrides_the_operators() -> None:
    body = registration(replace(INSTANCE, meta=(("role", "king"),)), STANDING)
    assert body["Meta"]["role"] == "primary"


@pytest.mark.parametrize(
    ("observed", "why"),
    [
        (SEEN, ""),
        (replace(SEEN, checks=(*CHECKS, MAINTENANCE)), ""),
        (None, "not registered"),
        (replace(SEEN, port=1), "differs in address"),
        (replace(SEEN, tags=("standby",), weight_passing=1), "differs in tags, weights"),
        (replace(SEEN, weight_warning=150), "differs in weights"),
        (replace(SEEN, meta={}), IN_META),
        (replace(SEEN, checks=CHECKS[:1]), "differs in checks triton-0:sidecar"),
    ],
)
def test_differences_are_found(observed: ServiceEntry | None, why: str) -> None:
    assert differences(INSTANCE, STANDING, observed) == why


@pytest.mark.parametrize(
    ("state", "before", "status"),
    [
        (State.STARTING, "critical", "critical"),
        (State.PASSING, "critical", "passing"),
        (State.WARNING, "passing", "warning"),
        (State.CRITICAL, "passing", "critical"),
        (State.DRAINING, "passing", "passing"),
        (State.DRAINING, "critical", "critical"),
    ],
)
def test_the_pushed_status(state: State, before: Status, status: Status) -> None:
    assert check_status(Verdict(state, Reason.OK), before) == status


@pytest.mark.parametrize(
    ("fitness", "status"),
    [(State.PASSING, "passing"), (State.WARNING, "warning"), (State.CRITICAL, "critical")],
)
def test_in_maintenance_the_pushed_status_is_the_fitness(fitness: State, status: Status) -> None:
    verdict = Verdict(State.MAINTENANCE, Reason.MAINTENANCE, fitness=fitness)
    assert check_status(verdict, "critical") == status


def test_maintenance_is_read_with_its_reason() -> None:
    asked = Check("_service_maintenance:triton-0", "m", "critical", "", "triton-0", "new disk")
    assert maintenance(replace(SEEN, checks=(*CHECKS, asked))) == "new disk"
    assert maintenance(SEEN) is None
    assert maintenance(None) is None


def test_the_digest_distinguishes_sets_and_ignores_their_order() -> None:
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


def test_the_time_it_settles_at_is_registered_until_then() -> None:
    settling = replace(STANDING, settled_at=1_700_000_004.56)
    assert registration(INSTANCE, settling)["Meta"]["settled_at"] == "1700000004.6"
    assert "settled_at" not in registration(INSTANCE, STANDING)["Meta"]
    assert differences(INSTANCE, settling, SEEN) == IN_META
    seen = replace(SEEN, meta={**SEEN.meta, "settled_at": "1700000004.6"})
    assert differences(INSTANCE, settling, seen) == ""
    assert differences(INSTANCE, STANDING, seen) == IN_META


def test_capacity_and_zone_are_registered_if_known() -> None:
    body = registration(replace(INSTANCE, capacity=64, zone="east-1"), STANDING)
    assert (body["Meta"]["capacity"], body["Meta"]["zone"]) == ("64", "east-1")
    assert not {"capacity", "zone"} & registration(INSTANCE, STANDING)["Meta"].keys()
    assert differences(replace(INSTANCE, zone="east-1"), STANDING, SEEN) == IN_META
