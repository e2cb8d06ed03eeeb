from dataclasses import replace

import pytest

from sidecar.consul.api import ServiceEntry
from sidecar.traffic.policy import (
    DEFAULTS,
    Limits,
    Locality,
    Mode,
    ModelRule,
    Release,
    Retry,
    RoutingMode,
    TrafficPolicy,
)
from sidecar.traffic.warnings import policy_warnings

OLD, NEW = "files-0000000000000000", "files-1111111111111111"


def entry(name: str, model_set: str, *tags: str, zone: str = "") -> ServiceEntry:
    meta = {"model_set": model_set} | ({"zone": zone} if zone else {})
    return ServiceEntry("node", name, "triton", "10.0.0.7", 8001, tags, meta, 1, 1, ())


ENTRIES = (entry("a", OLD, "blue"), entry("b", NEW, "blue", "v2"))


TIMES_OUT = (
    "limits.per_try_idle_timeout: requests whose first answer takes 2s fail, after 2 attempts; "
    "no instance is avoided for lost connections, and there is no quarantine"
)

KILLS = (
    "retry.num_retries: a request that kills its server kills up to 4, unless a quarantine stops it"
)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (DEFAULTS, []),
        (TrafficPolicy(mode=Mode.WEIGHTED, weights=(("a", 1), ("b", 2))), []),
        (
            TrafficPolicy(mode=Mode.WEIGHTED, weights=(("a", 1), ("c", 2))),
            ["weights: there is no instance c at the moment"],
        ),
        (TrafficPolicy(release=Release(tag="v2", percent=5)), []),
        (TrafficPolicy(release=Release(model_set=NEW, percent=5)), []),
        (
            TrafficPolicy(release=Release(tag="v3", percent=5)),
            ["release: no instance has the tag v3 yet; its share goes to the rest"],
        ),
        (
            TrafficPolicy(release=Release(model_set="files-2", percent=5)),
            ["release: no instance serves the model set files-2 yet; its share goes to the rest"],
        ),
        (
            TrafficPolicy(release=Release(tag="blue", percent=5)),
            ["release: every instance has the tag blue; no other instance is left for the rest"],
        ),
        (TrafficPolicy(release=Release(tag="blue", percent=100)), []),
        (
            TrafficPolicy(locality=Locality(prefer_zone=True)),
            ["locality.prefer_zone: no instance has set its zone (service.zone)"],
        ),
        (
            TrafficPolicy(retry=Retry(num_retries=3)),
            [KILLS],
        ),
        (
            TrafficPolicy(limits=Limits(per_try_idle_timeout=2.0)),
            [TIMES_OUT],
        ),
        (
            # Nothing is retried, so no attempt times out either.
            TrafficPolicy(limits=Limits(per_try_idle_timeout=2.0), retry=Retry(idempotent=False)),
            [],
        ),
    ],
)
def test_a_policy_that_matches_no_instance_is_a_warning(
    policy: TrafficPolicy, expected: list[str]
) -> None:
    assert list(policy_warnings(DEFAULTS, policy, ENTRIES)) == expected


def test_a_mode_that_differs_from_the_sidecars_is_a_warning() -> None:
    own = entry("c", OLD)
    strict = replace(own, meta={**own.meta, "election_mode": "strict"})
    warned = {
        mode: list(policy_warnings(DEFAULTS, TrafficPolicy(mode=mode), (*ENTRIES, strict)))
        for mode in Mode
    }
    lax = "an instance that loses the role may serve until Envoy is updated"
    idle = "they get no requests unless they are primary"
    assert warned == {
        Mode.ACTIVE_STANDBY: [],
        Mode.ACTIVE_ACTIVE: [f"mode: strict themselves (election.mode): c; {idle}"],
        Mode.WEIGHTED: [f"mode: strict themselves (election.mode): c; {idle}"],
        Mode.STRICT: [f"mode: not strict themselves (election.mode): a, b; {lax}"],
    }
    assert list(policy_warnings(DEFAULTS, TrafficPolicy(mode=Mode.STRICT), (strict,))) == []


def test_zones_are_recognized() -> None:
    policy = TrafficPolicy(locality=Locality(prefer_zone=True))
    assert list(policy_warnings(DEFAULTS, policy, (entry("a", OLD, zone="east"),))) == []


def test_invisible_instances_cause_no_other_warning() -> None:
    (line,) = policy_warnings(DEFAULTS, TrafficPolicy(release=Release(tag="v2")), ())
    assert "Consul lists no instance" in line


def test_a_policy_from_before_a_rollback_is_a_warning() -> None:
    before = TrafficPolicy(release=Release(tag="v2", percent=5, rolled_back="by the guard: bad"))
    again = TrafficPolicy(release=Release(tag="v2", percent=5))
    expected = "release: it was rolled back by the guard: bad; it gets requests again"
    assert list(policy_warnings(before, again, ENTRIES)) == [expected]
    for other in (DEFAULTS, before, TrafficPolicy(release=Release(model_set=NEW, percent=5))):
        assert list(policy_warnings(before, other, ENTRIES)) == []


def test_a_policy_and_its_instances_should_know_the_same_models() -> None:
    ill = (
        entry("a", OLD, "model:chat", "model:embed", "model-unusable:CANARY_FAILED:chat"),
        entry("b", OLD, "model:chat"),
    )
    assert list(policy_warnings(DEFAULTS, DEFAULTS, ill)) == [
        "routing: a gets requests for chat, which it lacks: CANARY_FAILED"
    ]
    rules = (("talk", ModelRule("chat", ("tiny",))), ("x", ModelRule(fallback=("embed",))))
    policy = TrafficPolicy(routing=RoutingMode.BY_MODEL, models=rules)
    assert list(policy_warnings(DEFAULTS, policy, ill)) == [
        "models: talk: no instance names the model tiny at the moment",
        "models: x: no instance names the model x at the moment",
    ]
