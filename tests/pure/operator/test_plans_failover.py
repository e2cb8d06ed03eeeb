"""What a failover does, forced or not, and why it is refused."""

from dataclasses import replace

import pytest

from sidecar.election.keys.orders import Kind, Pause
from sidecar.operator import plans
from sidecar.runtime.errors import Conflict
from tests.support.operator_scene import NOW, PENDING, SETS, WISH, cold, entry, pending, seen


def test_failover_without_a_primary() -> None:
    plan = plans.failover(seen(entry("a", "critical", "x"), entry("b"), holder=None), WISH)
    assert (plan.order.kind, plan.order.to, plan.order.force) == (Kind.FAILOVER, "b", False)
    assert plan.lost == (
        "lost if a is dead: in-flight requests that cannot be retried, such as streams",
    )


def test_failover_from_a_primary_that_does_not_serve() -> None:
    plan = plans.failover(seen(entry("a", "critical", "x"), entry("b")), WISH)
    assert plan.order.to == "b"


def test_failover_of_the_last_holder_back_to_itself() -> None:
    assert plans.failover(seen(entry("a"), holder=None), WISH).order.to == "a"


def test_force_lists_what_it_overrides() -> None:
    now = seen(
        entry("a"),
        entry("b", model_set=SETS["new"], tags=["nofailover"]),
        pause=Pause(NOW, "joe@desk"),
        order=pending(),
    )
    plan = plans.failover(now, replace(WISH, force=True, to="b"))
    against = now.objections(now.others[0])
    assert len(against) == 2
    assert plan.order.force
    assert (plan.index, plan.replaced) == (50, pending())
    assert plan.lost == (
        "a serves, and is forced out of the role",
        "b need not prove itself first",
        *(f"overridden: b: {why}" for why in against),
        "automation stays paused: no instance takes over if b fails",
        f"the pending order is dropped: {PENDING}",
    )


def test_force_takes_the_one_with_the_fewest_objections() -> None:
    now = seen(
        entry("a"),
        entry("b", tags=["nofailover"], unfit="it is old"),
        entry("c", tags=["nofailover"]),
        entry("d", "critical", "dead"),
    )
    assert plans.failover(now, replace(WISH, force=True)).order.to == "c"


def test_among_equals_force_takes_one_that_has_settled() -> None:
    settling = entry("b", "warning", "WARNING", priority="200", settled_at=f"{NOW + 3}")
    now = seen(entry("a", "critical"), settling, entry("c", "warning", "WARNING"))
    assert plans.failover(now, replace(WISH, force=True)).order.to == "c"


def test_force_may_take_a_cold_standby() -> None:
    plan = plans.failover(seen(entry("a"), cold("b")), replace(WISH, force=True, to="b"))
    assert plan.order.to == "b"


FORCED = replace(WISH, force=True)
ASKED = seen(entry("a"), entry("b", "warning", "DEGRADED GPU at 91 C"), entry("c", "critical"))
SINCE_CONFIRMED = {
    "nothing changed": (ASKED, ""),
    "another reason for the same verdict": (
        seen(entry("a"), entry("b", "warning", "DEGRADED GPU at 92 C"), entry("c")),
        "",
    ),
    "the overridden instance is healthy again": (
        seen(entry("a"), entry("b"), entry("c", "critical")),
        "",
    ),
    "another primary": (
        seen(entry("a"), entry("b", "warning"), entry("c"), holder="c", last="c"),
        "nothing was written: c has become primary; c serves",
    ),
    "another primary that does not serve": (
        seen(entry("a"), entry("b", "warning"), entry("c", "critical"), holder="c", last="c"),
        "primary; lost if c is dead",
    ),
    "the primary is dead": (
        seen(entry("a", "critical"), entry("b", "warning")),
        "nothing was written: lost if a is dead",
    ),
    "the role is free": (
        seen(entry("b", "warning"), holder=None),
        "nothing was written: lost if a is dead",
    ),
    "another objection": (
        seen(entry("a"), entry("b", "warning", tags=["nofailover"])),
        "nothing was written: overridden: b: .* nofailover$",
    ),
    "an order": (
        seen(entry("a"), entry("b", "warning"), order=pending()),
        "nothing was written: .* order",
    ),
    "the target has the role": (
        seen(entry("a"), entry("b"), holder="b", last="b"),
        "^b is primary already$",
    ),
    "the target is dead": (seen(entry("a"), entry("b", "critical")), "^b does not serve"),
}


@pytest.mark.parametrize("case", SINCE_CONFIRMED)
def test_only_what_was_confirmed_is_executed(case: str) -> None:
    now, why = SINCE_CONFIRMED[case]
    approved = plans.failover(ASKED, FORCED)
    assert approved.order.to == "b"
    if not why:
        assert plans.confirmed(now, FORCED, approved).order == approved.order
        return
    with pytest.raises(Conflict, match=why):
        plans.confirmed(now, FORCED, approved)


FAILOVERS = {
    "a healthy primary": (
        seen(entry("a"), entry("b")),
        WISH,
        "a is primary and serves (passing); use `switchover`, or `--force`",
    ),
    "an overloaded primary": (
        seen(entry("a", "warning", "x"), entry("b")),
        WISH,
        "a is primary and serves (warning)",
    ),
    "another order": (
        seen(entry("a"), entry("b"), holder=None, order=pending()),
        WISH,
        "; `flush switchover` cancels",
    ),
    "objections": (
        seen(entry("a"), entry("b", tags=["nofailover"]), holder=None),
        replace(WISH, to="b"),
        "tagged nofailover",
    ),
    "forced, does not serve": (
        seen(entry("a"), entry("b", "critical", "CRITICAL GPU_LOST")),
        replace(FORCED, to="b"),
        "b does not serve, and --force cannot change that: critical: CRITICAL GPU_LOST",
    ),
    "forced, in maintenance": (
        seen(entry("a"), entry("b", maintenance="new disk")),
        replace(FORCED, to="b"),
        "b does not serve, and --force cannot change that: in maintenance",
    ),
    "forced, primary already": (
        seen(entry("a"), entry("b")),
        replace(FORCED, to="a"),
        "a is primary already",
    ),
    "forced, unknown": (seen(entry("a")), replace(FORCED, to="x"), "x: no such"),
    "forced, no instance serves": (
        seen(entry("a"), entry("b", "critical", "dead")),
        FORCED,
        "critical: dead",
    ),
}


@pytest.mark.parametrize("case", FAILOVERS)
def test_failover_is_refused(case: str) -> None:
    now, wish, why = FAILOVERS[case]
    with pytest.raises(Conflict) as refused:
        plans.failover(now, wish)
    assert why in str(refused.value)
