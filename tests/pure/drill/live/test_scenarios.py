"""Which scenarios run on a live mesh, and what a victim does not permit."""

import pytest

from sidecar.drill.live import consent, precheck, scenarios
from sidecar.drill.live.scenarios import on_live_mesh, possible
from sidecar.drill.scenarios.catalog import SCENARIOS, select
from sidecar.election.keys.orders import Order
from sidecar.injection.rules import Code, Fault
from sidecar.operator.service_status import ServiceStatus
from sidecar.registry.checks import WITHDRAWAL_META, WITHDRAWN
from tests.support.operator_scene import entry, pending, seen

PERMITTED = "crash,freeze"


def mesh(**meta: str) -> ServiceStatus:
    return seen(entry("a", **meta), entry("b"))


def test_every_live_scenario_is_a_fault_of_sidecars_or_the_switchover() -> None:
    live = {each.name for each in SCENARIOS if each.live}
    assert live == {*(fault.value for fault in Fault), scenarios.SWITCHOVER}
    assert live == {each.name for each in SCENARIOS if possible(each)}


def test_a_live_mesh_offers_what_its_scenarios_need_and_nothing_else() -> None:
    for before, after in zip(SCENARIOS, on_live_mesh(SCENARIOS), strict=True):
        assert (after.name, after.expects) == (before.name, before.expects)
        assert bool(after.needs) is not before.live
        assert (after.inject is before.inject) is not before.live


@pytest.mark.parametrize(
    ("name", "meta", "permitted"),
    [
        ("crash", {"drill": PERMITTED}, True),
        ("stubs-killed", {"drill": PERMITTED}, False),
        ("crash", {}, False),
        ("switchover", {"drill": PERMITTED}, True),
        ("switchover", {}, False),
        ("consul-gone", {}, True),  # what it lacks is its needs
    ],
)
def test_what_the_primary_does_not_permit_is_refused(
    name: str, meta: dict[str, str], permitted: bool
) -> None:
    refused = scenarios.refusal(mesh(**meta), *select([name]))
    assert (refused is None) is permitted
    assert refused is None or refused.code == Code.NOT_PERMITTED


@pytest.mark.parametrize("order", [None, pending()])
def test_what_only_an_operator_changes_is_refused_at_once(order: Order | None) -> None:
    maintained = entry("b", maintenance="kernel", drill=PERMITTED)
    status = seen(entry("a", drill=PERMITTED), maintained, order=order)
    refused = scenarios.refusal(status, *select(["crash"]))
    assert refused
    assert refused.code == Code.MAINTENANCE


@pytest.mark.parametrize("meta", [{}, {WITHDRAWAL_META: WITHDRAWN}])
def test_a_sidecar_that_withdraws_its_own_instance_is_no_maintenance(meta: dict[str, str]) -> None:
    stopping = entry("b", maintenance=WITHDRAWN, **meta)
    status = seen(entry("a", drill=PERMITTED), stopping)
    assert scenarios.refusal(status, *select(["crash"])) is None
    refused = precheck.refusal_of_mesh(status, "a")
    assert refused
    assert refused.code == Code.OTHERS_UNWELL


def test_other_refusals_are_left_to_the_moment_of_the_fault() -> None:
    unwell = entry("b", status="critical")
    assert scenarios.refusal(seen(entry("a", drill=PERMITTED), unwell), *select(["crash"])) is None
    nobody = seen(entry("a"), entry("b"), holder=None)
    assert scenarios.refusal(nobody, *select(["crash"])) is None
    alone = seen(entry("a", drill=PERMITTED))
    assert scenarios.refusal(alone, *select(["crash"])) is None


@pytest.mark.wording
def test_the_operator_reads_what_will_be_done_to_which_instance() -> None:
    chosen = select(["freeze", "stubs-killed", "consul-gone", "host-lost"])
    found = list(consent.terms(mesh(drill=PERMITTED), chosen, 2, "rate=10", "edge:8001"))
    assert found == [
        "service t: 2 instances, a is primary",
        "freeze: Triton frozen, on the primary, 2 times",
        "stubs-killed: skipped: a permits crash, freeze, not stubs-killed: see drill.allow",
        "skipped, because a live mesh does not offer what they need: consul-gone, host-lost",
        "load, through edge:8001: rate=10",
    ]
