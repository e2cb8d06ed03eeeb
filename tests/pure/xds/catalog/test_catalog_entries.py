from collections.abc import Mapping
from dataclasses import replace

import pytest

from sidecar.consul.api import Check, ServiceEntry
from sidecar.xds.catalog.catalog import Health, Instance
from sidecar.xds.catalog.catalog_entries import EntryReader


def check(status: str, output: str = "said so", check_id: str = "triton-0:verdict") -> Check:
    owner = "" if check_id in {"serfHealth", "_node_maintenance"} else "triton-0"
    return Check(check_id, check_id, status, output, owner)


def entry(
    *checks: Check,
    entry_id: str = "triton-0",
    address: str = "10.0.0.1",
    port: int = 8001,
    meta: Mapping[str, str] | None = None,
    weights: tuple[int, int] = (3, 1),
    tags: tuple[str, ...] = (),
    node_meta: Mapping[str, str] | None = None,
) -> ServiceEntry:
    return ServiceEntry(
        node="node-1",
        id=entry_id,
        name="triton",
        address=address,
        port=port,
        tags=tags,
        meta={"sidecar_grpc_port": "9001"} if meta is None else meta,
        weight_passing=weights[0],
        weight_warning=weights[1],
        checks=checks,
        node_meta=node_meta or {},
    )


def test_tags_name_the_models() -> None:
    tags = ("primary", "model:chat", "model:embed", "model-unusable:CANARY_FAILED:chat", "v2")
    instances, _ = EntryReader().read([entry(tags=tags)])
    assert instances[0].models == ("chat", "embed")
    assert instances[0].unusable == (("chat", "CANARY_FAILED"),)
    assert instances[0].usable_models == {"embed"}


INSTANCE = Instance("triton-0", "10.0.0.1", 8001, 9001, Health.PASSING, weight=3)


def test_a_complete_entry_is_read() -> None:
    found = EntryReader().read([entry(check("passing"), check("passing", "", "serfHealth"))])
    assert found == ((INSTANCE,), ())


def test_warning_lowers_the_weight() -> None:
    [found], _ = EntryReader().read([entry(check("warning"))])
    assert (found.health, found.weight, found.usable) == (Health.WARNING, 1, True)
    assert found.percent == 33


def test_a_failed_check_counts() -> None:
    [found], _ = EntryReader().read([entry(check("critical"), check("passing"))])
    assert (found.health, found.usable, found.draining) == (Health.CRITICAL, False, False)


DEAD = check("critical", 'rpc error: code = Unavailable desc = "refused"', "triton-0:sidecar")
MAINTAINED = check("critical", "", "_service_maintenance:triton-0")
LAPSED = "TTL expired (last output before timeout follows): "


@pytest.mark.parametrize(
    ("status", "output", "health"),
    [
        ("passing", "PASSING OK", Health.PASSING),
        ("warning", "WARNING GPU_HOT", Health.WARNING),
        ("critical", LAPSED + "PASSING OK", Health.PASSING),
        ("critical", LAPSED + "WARNING GPU_HOT: 91 degrees", Health.WARNING),
        ("critical", "PASSING OK", Health.PASSING),  # the agent was restarted
        ("critical", LAPSED + "CRITICAL MODEL_HUNG", Health.CRITICAL),
        ("critical", "CRITICAL MODEL_HUNG", Health.CRITICAL),
        ("critical", "TTL expired", Health.CRITICAL),
        ("critical", "", Health.CRITICAL),
    ],
)
def test_a_silent_instance_keeps_its_last_verdict(status: str, output: str, health: Health) -> None:
    verdict = check(status, output, "triton-0:verdict")
    [found], _ = EntryReader().read([entry(verdict, DEAD)])
    assert (found.health, found.usable) == (health, False)
    assert found.usable_last is (health is not Health.CRITICAL)
    [found], _ = EntryReader().read([entry(verdict, DEAD, MAINTAINED)])
    assert (found.draining, found.usable_last) == (True, False)
    [found], _ = EntryReader().read(
        [entry(verdict, DEAD, check("critical", "it is on fire", "own"))]
    )
    assert (found.health, found.silent) == (Health.CRITICAL, False)


def test_a_ghost_does_not_replace_an_instance_without_a_verdict() -> None:
    gone = check("critical", "Agent not live or unreachable", "serfHealth")
    lapsed = check("critical", f"{LAPSED}PASSING OK", "triton-0:verdict")
    ghost = replace(entry(lapsed, DEAD, gone, address="10.0.0.9"), node="node-0")
    alive = entry(check("critical", "", "triton-0:verdict"))
    found, skipped = EntryReader().read([ghost, alive])
    assert found == ()
    assert [each.may_serve for each in skipped] == [True, False]


@pytest.mark.parametrize("prefix", ["", LAPSED])
def test_a_check_without_a_result_is_not_a_verdict(prefix: str) -> None:
    """The sidecar was restarted, and its Triton may have served all the time."""
    output = f"{prefix}STARTING NOT_PROVEN_YET: server: port has not passed often enough yet"
    unproven = check("critical", output, "triton-0:verdict")
    for checks in ([unproven], [unproven, DEAD]):
        found, [skipped] = EntryReader().read([entry(*checks)])
        assert (found, skipped.may_serve) == ((), True)
    found, _ = EntryReader().read([entry(check("critical", "STARTING PORT_UNREACHABLE: refused"))])
    assert [each.health for each in found] == [Health.CRITICAL]


@pytest.mark.parametrize(
    "sign",
    [
        entry(check("passing"), check("critical", "", "_service_maintenance:triton-0")),
        entry(check("passing"), check("critical", "", "_node_maintenance")),
    ],
)
def test_signs_of_draining(sign: ServiceEntry) -> None:
    [found], _ = EntryReader().read([sign])
    assert (found.draining, found.usable) == (True, False)


WRONG = check("critical", "CRITICAL CANARY_WRONG_ANSWER")
HEALTHY = check("passing", "PASSING OK")
FOREIGN = check("critical", "it is on fire", "own")


@pytest.mark.parametrize(
    ("checks", "ill"),
    [
        ((WRONG,), True),
        ((WRONG, MAINTAINED), True),
        ((WRONG, FOREIGN), True),
        ((HEALTHY,), False),
        ((HEALTHY, MAINTAINED), False),
        ((HEALTHY, FOREIGN), False),
        ((check("critical", "", "_node_maintenance"), HEALTHY), False),
        # Its sidecar does not answer: its last report counts.
        ((HEALTHY, DEAD), False),
        ((HEALTHY, DEAD, MAINTAINED), False),
        ((HEALTHY, DEAD, FOREIGN), False),
        ((WRONG, DEAD, MAINTAINED), True),
        ((check("critical", LAPSED + "CRITICAL MODEL_HUNG"), DEAD), True),
        # It was restarted, or has not reported yet.
        ((check("critical", "STARTING NOT_PROVEN_YET"), MAINTAINED), False),
        ((check("critical", LAPSED + "PASSING OK"), MAINTAINED), False),
    ],
)
def test_only_its_own_checks_make_an_instance_unhealthy(
    checks: tuple[Check, ...], ill: bool
) -> None:
    [found], _ = EntryReader().read([entry(*checks)])
    assert found.ill is ill


WAITS = {"sidecar_grpc_port": "9001", "hands_over": "true"}
VERDICT = Check("triton-0:verdict", "Triton verdict", "passing", "PASSING OK", "triton-0")
MODE = Check("_service_maintenance:triton-0", "m", "critical", "", "triton-0", "new disk")
NODE_MODE = replace(MODE, id="_node_maintenance", service_id="")
DISK = Check("disk", "disk", "critical", "is full", "")


@pytest.mark.parametrize(
    ("against", "meta", "waits"),
    [
        ((), WAITS, False),
        ((MODE,), WAITS, True),
        ((NODE_MODE,), WAITS, True),
        ((DISK,), WAITS, True),
        ((MODE, NODE_MODE, DISK), WAITS, True),
        # It does not announce it, has withdrawn itself, is unhealthy, or its sidecar is gone.
        ((MODE,), None, False),
        ((replace(MODE, notes="stopping in order"),), WAITS, False),
        ((NODE_MODE, replace(MODE, notes="stopping in order")), WAITS, False),
        ((MODE,), {**WAITS, "withdrawal_reason": "new disk"}, False),
        ((replace(MODE, notes="stopping in order"),), {**WAITS, "withdrawal_reason": "x"}, True),
        ((DISK, replace(VERDICT, status="critical")), WAITS, False),
        ((MODE, replace(VERDICT, id="triton-0:sidecar", status="critical")), WAITS, False),
    ],
)
def test_which_instance_serves_until_another_one_does(
    against: tuple[Check, ...], meta: Mapping[str, str] | None, waits: bool
) -> None:
    checks = against if VERDICT.id in {each.id for each in against} else (VERDICT, *against)
    [found], _ = EntryReader().read([entry(*checks, meta=meta)])
    assert found.hands_over == waits
    assert found.usable == (not against)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (entry(check("passing"), address="gpu-1.local"), "expected an IP address"),
        (entry(check("passing"), address=""), "expected an IP address"),
        # Envoy rejects the whole assignment because of these.
        (entry(check("passing"), address="fe80::1%eth9"), "expected an IP address"),
        (entry(check("passing"), address="0.0.0.0"), "expected an IP address"),
        (entry(check("passing"), address="::"), "expected an IP address"),
        (entry(check("passing"), address="ff02::1"), "expected an IP address"),
        (entry(check("passing"), port=0), "port 0: expected a port number"),
        (entry(check("passing"), meta={}), "sidecar_grpc_port None"),
        (entry(check("passing"), meta={"sidecar_grpc_port": "x"}), "sidecar_grpc_port 'x'"),
        (entry(check("passing"), meta={"sidecar_grpc_port": "70000"}), "expected a port number"),
        (entry(check("passing"), meta={"sidecar_grpc_port": "²"}), "expected a port number"),
        (entry(check("unheard-of")), "status 'unheard-of'"),
        # The agent of the node is gone; Triton may still run.
        (entry(check("passing"), check("critical", "down", "serfHealth")), "has no result"),
        # Registered, but not run yet.
        (entry(check("critical", "")), "has no result"),
        # The agent has had no update from the sidecar for longer than the TTL, but can reach it.
        (entry(check("critical", "TTL expired"), check("passing")), "has no result"),
        # The agent was restarted; status and output are from different times.
        (entry(check("critical", "PASSING OK\nchat: OK"), check("passing")), "has no result"),
        (entry(check("critical", "WARNING MODEL_BUSY: m"), check("passing")), "has no result"),
        (entry(check("critical", "gRPC check 10.0.0.1:9/x: success")), "has no result"),
    ],
)
def test_an_unusable_entry_is_left_out_with_a_reason(bad: ServiceEntry, reason: str) -> None:
    instances, [skipped] = EntryReader().read([bad])
    assert instances == ()
    assert skipped.id == "triton-0"
    assert reason in skipped.reason
    assert skipped.may_serve == ("has no result" in reason)


def test_an_agent_that_is_gone_does_not_hide_a_failed_check() -> None:
    [found], _ = EntryReader().read([entry(check("critical"), check("critical", "", "serfHealth"))])
    assert found.health is Health.CRITICAL


def test_of_two_entries_with_one_id_the_healthier_counts() -> None:
    ghost = entry(check("critical"), address="10.0.0.9")
    for order in ([ghost, entry(check("passing"))], [entry(check("passing")), ghost]):
        [found], [skipped] = EntryReader().read(order)
        assert found == INSTANCE
        assert "duplicate id" in skipped.reason


@pytest.mark.parametrize(("given", "used"), [(0, 1), (-5, 1), (7, 7), (1_000_000, 65_535)])
def test_weights_are_kept_in_bounds(given: int, used: int) -> None:
    [found], _ = EntryReader().read([entry(check("passing"), weights=(given, 1))])
    assert found.weight == used


def test_the_order_of_entries_does_not_matter() -> None:
    entries = [entry(check("passing"), entry_id=name, port=8000 + int(name)) for name in "312"]
    assert EntryReader().read(entries) == EntryReader().read(entries[::-1])
    assert [found.id for found in EntryReader().read(entries)[0]] == ["1", "2", "3"]


PORT = {"sidecar_grpc_port": "9001"}


def test_fields_that_policies_use_are_read() -> None:
    meta = {**PORT, "model_set": "files-1", "capacity": "64", "zone": "east"}
    [found], skipped = EntryReader().read(
        [entry(check("passing"), meta=meta, tags=("primary", "v2"), node_meta={"zone": "west"})]
    )
    assert (found.model_set, found.capacity, found.zone) == ("files-1", 64, "east")
    assert (found.tags, found.datacenter, skipped) == (("primary", "v2"), "", ())


@pytest.mark.parametrize(
    ("node_meta", "zone"),
    [
        ({}, ""),
        ({"zone": "west"}, "west"),
        ({"zone": "", "availability_zone": "west-1"}, "west-1"),
        ({"zone": "west", "availability_zone": "west-1"}, "west"),
    ],
)
def test_without_a_zone_it_has_that_of_its_node(node_meta: dict[str, str], zone: str) -> None:
    [found], _ = EntryReader().read([entry(check("passing"), node_meta=node_meta)])
    assert found.zone == zone


@pytest.mark.parametrize("capacity", ["", "0", "-1", "1.5", "many", "²", "1000001", "9" * 5000])
def test_an_invalid_capacity_is_ignored_with_a_reason(capacity: str) -> None:
    [found], [ignored] = EntryReader().read(
        [entry(check("passing"), meta={**PORT, "capacity": capacity})]
    )
    assert (found.capacity, found.usable) == (0, True)
    assert ignored.partly
    assert "capacity" in ignored.reason
    assert len(ignored.reason) < 200


def test_a_second_read_equals_that_of_a_new_reader() -> None:
    reader = EntryReader()
    a, b = entry(check("passing"), entry_id="a"), entry(check("passing"), entry_id="b", port=1)
    failing = entry(check("critical"), entry_id="a")
    twice = entry(check("passing"), entry_id="a", address="10.0.0.9")
    for entries in ([a, b], [failing, b], [a, b], [b], [], [a, b, twice], [a, failing, b]):
        assert reader.read(entries) == EntryReader().read(entries)
