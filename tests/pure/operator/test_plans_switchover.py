"""What a switchover does, and why it is refused."""

from dataclasses import replace
from typing import Any

import pytest

from sidecar.election.candidates import Candidate, objections
from sidecar.election.keys.orders import Kind, Order, Pause
from sidecar.operator import plans
from sidecar.runtime.errors import Conflict
from tests.support.operator_scene import NOW, PENDING, SETS, WISH, cold, entry, pending, seen


def test_switchover_names_the_best_candidate() -> None:
    now = seen(entry("a"), entry("b"), entry("c", priority="200"), cold("d"))
    plan = plans.switchover(now, WISH)
    assert plan.order == Order("order-1", Kind.SWITCHOVER, NOW, "jane@desk", "c")
    assert (plan.index, plan.replaced, plan.lost) == (0, None, ())


def test_switchover_prefers_a_candidate_that_has_settled() -> None:
    settling = entry("c", priority="200", settled_at=f"{NOW + 3}")
    assert plans.switchover(seen(entry("a"), entry("b"), settling), WISH).order.to == "b"
    assert plans.switchover(seen(entry("a"), settling), WISH).order.to == "c"
    unfit = entry("b", "critical", "CRITICAL MODEL_HUNG: chat")
    assert plans.switchover(seen(entry("a"), unfit, settling), WISH).order.to == "c"


def test_a_scheduled_switchover_chooses_its_candidate_when_it_is_due() -> None:
    plan = plans.switchover(seen(entry("a"), entry("b")), replace(WISH, at=NOW + 60))
    assert (plan.order.to, plan.order.at) == (None, NOW + 60)


def test_a_scheduled_switchover_may_name_its_candidate() -> None:
    wish = replace(WISH, at=NOW + 60, to="b")
    assert plans.switchover(seen(entry("a"), entry("b")), wish).order.to == "b"


def test_an_expired_order_is_replaced() -> None:
    plan = plans.switchover(seen(entry("a"), entry("b"), order=pending(NOW - 61)), WISH)
    assert plan.index == 50


def test_switchover_works_while_paused() -> None:
    now = seen(entry("a"), entry("b"), pause=Pause(NOW, "joe@desk"))
    assert plans.switchover(now, WISH).order.to == "b"


HUNG = "CRITICAL MODEL_HUNG: chat"


def against(reference: str = SETS["old"], **of: Any) -> str:
    """The objection to such a candidate."""
    [why] = objections(Candidate("b", **{"model_set": SETS["old"], **of}), reference)
    return why


SWITCHOVERS = {
    "no primary": (
        seen(entry("a"), entry("b"), holder=None),
        WISH,
        "there is no primary; `failover` elects one",
    ),
    "no instance is visible": (
        seen(holder=None, last=None),
        WISH,
        "the ACL token may lack read access",
    ),
    "unknown": (
        seen(entry("a"), entry("b")),
        replace(WISH, to="x"),
        "x: no such instance; the instances are: a, b",
    ),
    "primary already": (
        seen(entry("a"), entry("b")),
        replace(WISH, to="a"),
        "a is primary already",
    ),
    "critical": (
        seen(entry("a"), entry("b", "critical", "CRITICAL MODEL_HUNG: chat\nmore")),
        replace(WISH, to="b"),
        f"b may not become primary: {against(state='critical', detail=HUNG)}",
    ),
    "warning": (
        seen(entry("a"), entry("b", "warning", "WARNING CANARY_SLOW")),
        replace(WISH, to="b"),
        against(state="warning"),
    ),
    "tagged": (
        seen(entry("a"), entry("b", tags=["nofailover"])),
        replace(WISH, to="b"),
        "tagged nofailover",
    ),
    "in maintenance": (
        seen(entry("a"), entry("b", maintenance="new disk")),
        replace(WISH, to="b"),
        against(maintenance=True),
    ),
    "another model set": (
        seen(entry("a"), entry("b", model_set=SETS["new"])),
        replace(WISH, to="b"),
        against(model_set=SETS["new"]),
    ),
    "another model set than declared": (
        seen(entry("a"), entry("b"), declared=SETS["new"]),
        replace(WISH, to="b"),
        against(SETS["new"]),
    ),
    "unfit by its own report": (
        seen(entry("a"), entry("b", unfit="its promotion failed: x")),
        replace(WISH, to="b"),
        "its promotion failed: x",
    ),
    "no fit instance": (
        seen(entry("a"), entry("b", tags=["nofailover"]), entry("c", "critical", "gone")),
        WISH,
        f"no other instance may become primary: b: {against(nofailover=True)}; c: ",
    ),
    "alone": (seen(entry("a")), WISH, "there is no other instance"),
    "alone, scheduled": (seen(entry("a")), replace(WISH, at=NOW + 9), "there is no other instance"),
    "another order": (
        seen(entry("a"), entry("b"), order=pending()),
        WISH,
        f"another order is pending: {PENDING}; `flush switchover` cancels",
    ),
    "an order that cannot be read": (
        seen(entry("a"), entry("b"), order=b"{"),
        WISH,
        "order cannot be read; `flush switchover` removes it",
    ),
}


@pytest.mark.parametrize("case", SWITCHOVERS)
def test_switchover_is_refused(case: str) -> None:
    now, wish, why = SWITCHOVERS[case]
    with pytest.raises(Conflict) as refused:
        plans.switchover(now, wish)
    assert why in str(refused.value)
