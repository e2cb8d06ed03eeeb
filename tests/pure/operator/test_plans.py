"""What an operator's order is to be, and why it is refused."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from sidecar.cli.operator import json_output, shown
from sidecar.consul.api import Check, KVEntry, ServiceEntry
from sidecar.election.keys import lock, orders
from sidecar.election.keys.lock import Claim, Ended
from sidecar.election.keys.orders import Kind, Order, Outcome, Pause
from sidecar.operator import plans, service_status
from sidecar.operator.plans import Wish
from sidecar.operator.service_status import ServiceStatus
from sidecar.runtime.errors import Conflict

NOW = 1_700_000_000.0
SETS = {"old": "files-0000000000000000", "new": "files-1111111111111111"}
WISH = Wish("order-1", "jane@desk")


def entry(
    name: str,
    status: str = "passing",
    output: str = "PASSING OK",
    tags: Sequence[str] = (),
    maintenance: str | None = None,
    **meta: str,
) -> ServiceEntry:
    checks = [Check(f"{name}:verdict", "Triton verdict", status, output, name)]
    if maintenance is not None:
        id_ = f"_service_maintenance:{name}"
        checks.append(Check(id_, "Service Maintenance Mode", "critical", "", name, maintenance))
    return ServiceEntry(
        node="n",
        id=name,
        name="t",
        address="10.0.0.1",
        port=8001,
        tags=("standby", *tags),
        meta={"model_set": SETS["old"], **meta},
        weight_passing=1,
        weight_warning=1,
        checks=tuple(checks),
    )


def cold(name: str) -> ServiceEntry:
    return entry(name, "critical", "COLD COLD: its models are not loaded", standby="cold")


def key(name: str, value: object, index: int, session: str | None = None) -> KVEntry:
    text = value if isinstance(value, bytes) else lock.dumps(value)
    return KVEntry(name, text, session, index, 1, index)


def seen(
    *entries: ServiceEntry,
    holder: str | None = "a",
    last: str | None = "a",
    order: Order | bytes | None = None,
    pause: Pause | None = None,
    outcome: Outcome | None = None,
    declared: str = "",
) -> ServiceStatus:
    keys = []
    if last:
        claim = Claim(last, "s", "2026-01-01T00:00:00.000Z", model_set=SETS["old"])
        ended = claim if holder else replace(claim, ended=Ended("it is shutting down", NOW - 1))
        keys.append(key(lock.lock_key("t"), ended, 40, "s" if holder else None))
        keys.append(key(lock.epoch_key("t"), claim, 40))
    for name, value in (
        (orders.order_key("t"), order),
        (orders.pause_key("t"), pause),
        (orders.outcome_key("t"), outcome),
    ):
        if value is not None:
            keys.append(key(name, value, 50))
    return service_status.read("t", entries, keys, 60, NOW, declared)


def pending(at: float = NOW + 600) -> Order:
    return Order("order-0", Kind.SWITCHOVER, at, "joe@desk", "b", "night")


# --- switchover -------------------------------------------------------------------------------


def test_switchover_names_the_best() -> None:
    now = seen(entry("a"), entry("b"), entry("c", priority="200"), cold("d"))
    plan = plans.switchover(now, WISH)
    assert plan.order == Order("order-1", Kind.SWITCHOVER, NOW, "jane@desk", "c")
    assert (plan.index, plan.replaced, plan.lost) == (0, None, ())


def test_switchover_names_one_that_has_settled() -> None:
    settling = entry("c", priority="200", settled_at=f"{NOW + 3}")
    assert plans.switchover(seen(entry("a"), entry("b"), settling), WISH).order.to == "b"
    assert plans.switchover(seen(entry("a"), settling), WISH).order.to == "c"
    unfit = entry("b", "critical", "CRITICAL MODEL_HUNG: chat")
    assert plans.switchover(seen(entry("a"), unfit, settling), WISH).order.to == "c"


def test_switchover_for_later_leaves_the_choice_until_then() -> None:
    plan = plans.switchover(seen(entry("a"), entry("b")), replace(WISH, at=NOW + 60))
    assert (plan.order.to, plan.order.at) == (None, NOW + 60)


def test_switchover_for_later_to_somebody_in_particular() -> None:
    wish = replace(WISH, at=NOW + 60, to="b")
    assert plans.switchover(seen(entry("a"), entry("b")), wish).order.to == "b"


def test_an_order_that_has_expired_gives_way() -> None:
    plan = plans.switchover(seen(entry("a"), entry("b"), order=pending(NOW - 61)), WISH)
    assert plan.index == 50


def test_switchover_goes_on_while_paused() -> None:
    now = seen(entry("a"), entry("b"), pause=Pause(NOW, "joe@desk"))
    assert plans.switchover(now, WISH).order.to == "b"


PENDING = "switchover to b by joe@desk, for 2023-11-14T22:23:20.000Z (night)"
SWITCHOVERS = {
    "nobody is primary": (
        seen(entry("a"), entry("b"), holder=None),
        WISH,
        "there is no primary; `failover` elects one",
    ),
    "nothing is seen at all": (
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
    "sick": (
        seen(entry("a"), entry("b", "critical", "CRITICAL MODEL_HUNG: chat\nmore")),
        replace(WISH, to="b"),
        "b may not become primary: its verdict is critical: CRITICAL MODEL_HUNG: chat",
    ),
    "warning": (
        seen(entry("a"), entry("b", "warning", "WARNING CANARY_SLOW")),
        replace(WISH, to="b"),
        "its verdict is warning",
    ),
    "tagged": (
        seen(entry("a"), entry("b", tags=["nofailover"])),
        replace(WISH, to="b"),
        "tagged nofailover",
    ),
    "in maintenance": (
        seen(entry("a"), entry("b", maintenance="new disk")),
        replace(WISH, to="b"),
        "it is in maintenance",
    ),
    "another model set": (
        seen(entry("a"), entry("b", model_set=SETS["new"])),
        replace(WISH, to="b"),
        f"it serves the model set {SETS['new']}, not {SETS['old']}",
    ),
    "another model set than declared": (
        seen(entry("a"), entry("b"), declared=SETS["new"]),
        replace(WISH, to="b"),
        f"it serves the model set {SETS['old']}, not {SETS['new']}",
    ),
    "unfit by its own word": (
        seen(entry("a"), entry("b", unfit="its promotion failed: x")),
        replace(WISH, to="b"),
        "its promotion failed: x",
    ),
    "nobody fit": (
        seen(entry("a"), entry("b", tags=["nofailover"]), entry("c", "critical", "gone")),
        WISH,
        "no other instance may become primary: b: it is tagged nofailover; c: its verdict is",
    ),
    "alone": (seen(entry("a")), WISH, "there is no other instance"),
    "alone later": (seen(entry("a")), replace(WISH, at=NOW + 9), "there is no other instance"),
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


# --- failover ---------------------------------------------------------------------------------


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


def test_force_says_what_it_overrides() -> None:
    now = seen(
        entry("a"),
        entry("b", model_set=SETS["new"], tags=["nofailover"]),
        pause=Pause(NOW, "joe@desk"),
        order=pending(),
    )
    plan = plans.failover(now, replace(WISH, force=True, to="b"))
    assert plan.order.force
    assert (plan.index, plan.replaced) == (50, pending())
    assert plan.lost == (
        "a serves, and is forced out of the role",
        "b need not prove itself first",
        "overridden: b: it is tagged nofailover",
        f"overridden: b: it serves the model set {SETS['new']}, not {SETS['old']}",
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


def test_force_takes_one_that_has_settled_of_equals() -> None:
    settling = entry("b", "warning", "WARNING", priority="200", settled_at=f"{NOW + 3}")
    now = seen(entry("a", "critical"), settling, entry("c", "warning", "WARNING"))
    assert plans.failover(now, replace(WISH, force=True)).order.to == "c"


def test_force_may_take_a_cold_standby() -> None:
    plan = plans.failover(seen(entry("a"), cold("b")), replace(WISH, force=True, to="b"))
    assert plan.order.to == "b"


FORCED = replace(WISH, force=True)
ASKED = seen(entry("a"), entry("b", "warning", "DEGRADED GPU at 91 C"), entry("c", "critical"))
MEANWHILE = {
    "all as it was": (ASKED, ""),
    "another reason for the same verdict": (
        seen(entry("a"), entry("b", "warning", "DEGRADED GPU at 92 C"), entry("c")),
        "",
    ),
    "the overridden is well again": (seen(entry("a"), entry("b"), entry("c", "critical")), ""),
    "another primary": (
        seen(entry("a"), entry("b", "warning"), entry("c"), holder="c", last="c"),
        "nothing was written: c has become primary; c serves, and is forced out of the role",
    ),
    "another primary that does not serve": (
        seen(entry("a"), entry("b", "warning"), entry("c", "critical"), holder="c", last="c"),
        "c has become primary; lost if c is dead",
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
        "nothing was written: overridden: b: it is tagged nofailover$",
    ),
    "an order": (
        seen(entry("a"), entry("b", "warning"), order=pending()),
        "nothing was written: the pending order is dropped",
    ),
    "the target has the role": (
        seen(entry("a"), entry("b"), holder="b", last="b"),
        "^b is primary already$",
    ),
    "the target is dead": (seen(entry("a"), entry("b", "critical")), "^b does not serve"),
}


@pytest.mark.parametrize("case", MEANWHILE)
def test_what_nobody_confirmed_is_not_done(case: str) -> None:
    now, why = MEANWHILE[case]
    agreed = plans.failover(ASKED, FORCED)
    assert agreed.order.to == "b"
    if not why:
        assert plans.confirmed(now, FORCED, agreed).order == agreed.order
        return
    with pytest.raises(Conflict, match=why):
        plans.confirmed(now, FORCED, agreed)


FAILOVERS = {
    "a healthy primary": (
        seen(entry("a"), entry("b")),
        WISH,
        "a is primary and serves (passing); use `switchover`, or `--force`",
    ),
    "a strained primary": (
        seen(entry("a", "warning", "x"), entry("b")),
        WISH,
        "a is primary and serves (warning)",
    ),
    "another order": (
        seen(entry("a"), entry("b"), holder=None, order=pending()),
        WISH,
        "another order is pending",
    ),
    "objections": (
        seen(entry("a"), entry("b", tags=["nofailover"]), holder=None),
        replace(WISH, to="b"),
        "b may not become primary: it is tagged nofailover",
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
    "forced, unknown": (seen(entry("a")), replace(FORCED, to="x"), "x: no such instance"),
    "forced, nobody serves": (
        seen(entry("a"), entry("b", "critical", "dead")),
        FORCED,
        "no other instance may become primary: b: its verdict is critical: dead",
    ),
}


@pytest.mark.parametrize("case", FAILOVERS)
def test_failover_is_refused(case: str) -> None:
    now, wish, why = FAILOVERS[case]
    with pytest.raises(Conflict) as refused:
        plans.failover(now, wish)
    assert why in str(refused.value)


# --- who would win ----------------------------------------------------------------------------


def test_everybodys_chance_in_order() -> None:
    now = seen(
        entry("a"),
        entry("b", priority="50"),
        entry("c"),
        cold("d"),
        entry("e", tags=["nofailover"]),
    )
    foreseen = plans.foresee(now, WISH)
    assert foreseen.winner == "c"
    assert foreseen.refusal.startswith("a is primary and serves")
    assert [(each.id, each.place, each.why) for each in foreseen.chances] == [
        ("c", 1, ()),
        ("b", 2, ()),
        ("d", 3, ()),
        ("a", 0, ("it is primary already",)),
        ("e", 0, ("it is tagged nofailover",)),
    ]


def test_who_settles_is_told_for_how_long() -> None:
    settles, gone = {"settled_at": f"{NOW + 2.34}"}, {"settled_at": f"{NOW - 1}"}
    ill = entry("d", "critical", "CRITICAL", **settles)
    now = seen(entry("a", "critical", **settles), entry("b", **settles), entry("c", **gone), ill)
    assert {row.id: row.settling_seconds for row in service_status.rows(now)} == {
        "a": 0.0,  # it is primary
        "b": 2.3,
        "c": 0.0,
        "d": 0.0,  # it does not pass, so it does not settle either
    }
    found = plans.foresee(now, WISH)
    assert found.winner == "c"
    assert {each.id: each.settling_seconds for each in found.chances} == {
        "a": 0.0, "b": 2.3, "c": 0.0, "d": 0.0
    }  # fmt: skip
    assert service_status.settling(2.3) == "settling, 3 s to go"


def test_who_settles_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    now = seen(entry("a"), entry("b", settled_at=f"{NOW + 2.34}"))
    shown.situation(now, False)
    assert "passing, settling, 3 s to go" in capsys.readouterr().out
    shown.MoveLines().foresight(plans.foresee(now, WISH))
    assert "settling, 3 s to go" in capsys.readouterr().out
    json_output.situation(now)
    told = {row["id"]: row for row in json.loads(capsys.readouterr().out)["instances"]}
    assert (told["a"]["settling_seconds"], told["b"]["settling_seconds"]) == (0.0, 2.3)
    json_output.MoveObject().foresight(plans.foresee(now, WISH))
    chances = {each["id"]: each for each in json.loads(capsys.readouterr().out)["chances"]}
    assert chances["b"]["settling_seconds"] == 2.3


def test_nobody_would_win() -> None:
    foreseen = plans.foresee(seen(entry("a", "critical", "x"), holder=None), WISH)
    assert (foreseen.winner, foreseen.lost) == (None, ())
    assert "no other instance may become primary" in foreseen.refusal


def test_who_would_win_where_nothing_is_in_the_way() -> None:
    foreseen = plans.foresee(seen(entry("a"), entry("b"), holder=None), WISH)
    assert (foreseen.winner, foreseen.refusal) == ("a", "")


def test_a_named_one_would_win_if_it_were_not_refused() -> None:
    foreseen = plans.foresee(seen(entry("a"), entry("b")), replace(WISH, to="b"))
    assert (foreseen.winner, bool(foreseen.refusal)) == ("b", True)
    with pytest.raises(Conflict, match="no such instance"):
        plans.foresee(seen(entry("a"), entry("b")), replace(WISH, to="c"))


def places(now: ServiceStatus, wish: plans.Wish) -> tuple[str | None, dict[str, tuple[int, str]]]:
    found = plans.foresee(now, wish)
    return found.winner, {each.id: (each.place, "; ".join(each.why)) for each in found.chances}


def test_who_is_named_is_the_only_one_in_the_table_that_may() -> None:
    now = seen(entry("a"), entry("b"), entry("c", priority="200"), cold("d"), holder=None)
    assert places(now, WISH) == ("c", {"c": (1, ""), "a": (2, ""), "b": (3, ""), "d": (4, "")})
    assert places(now, replace(WISH, to="b")) == (
        "b",
        {name: (int(name == "b"), "" if name == "b" else "b is named") for name in "bacd"},
    )
    # Also where a healthy primary stands against it.
    now = seen(entry("a"), entry("b"), entry("c", priority="200"))
    winner, table = places(now, replace(WISH, to="b"))
    assert (winner, table["b"][0], table["c"]) == ("b", 1, (0, "b is named"))
    # One that is named and may not: nobody.
    ill = entry("b", "critical", "CRITICAL MODEL_HUNG: chat")
    winner, table = places(seen(ill, entry("c"), holder=None), replace(WISH, to="b"))
    assert (winner, {place for place, _ in table.values()}) == (None, {0})
    assert "MODEL_HUNG" in table["b"][1]


def test_with_force_the_table_has_the_winner_too() -> None:
    now = seen(entry("a"), entry("b", tags=["nofailover"]), entry("c", "critical", "x"))
    winner, table = places(now, replace(WISH, force=True))
    assert (winner, table["b"], table["a"]) == ("b", (1, ""), (0, "it is primary already"))


def test_a_service_of_which_nothing_is_known_is_refused() -> None:
    with pytest.raises(Conflict, match="no such service"):
        plans.refuse_empty(seen())


# --- list -------------------------------------------------------------------------------------


def test_rows_tell_role_reason_and_objections() -> None:
    now = seen(
        entry("a", "critical", "CRITICAL MODEL_HUNG: chat\nlayers"),
        entry("b", model_set=SETS["new"], priority="200"),
        entry("c", maintenance="new disk"),
        cold("d"),
    )
    found = {row.id: row for row in service_status.rows(now)}
    assert (found["a"].role, found["a"].reason) == ("primary", "CRITICAL MODEL_HUNG: chat")
    assert found["b"].differs == f"serves the model set {SETS['new']}, not {SETS['old']}"
    assert found["b"].failback
    assert found["b"].address == "10.0.0.1:8001"
    assert (found["c"].verdict, found["c"].reason) == ("maintenance", "new disk")
    assert (found["d"].verdict, found["d"].standby, found["d"].objections) == ("cold", "cold", ())


@pytest.mark.parametrize(
    ("holder", "role"),
    [
        (cold("a"), "promoting"),
        (entry("a", "critical", "STARTING NOT_PROVEN_YET", role="promoting"), "promoting"),
        (entry("a", role="promoting"), "primary"),
        # Taken out of service it promotes nothing.
        (entry("a", maintenance="new disk"), "primary"),
    ],
)
def test_who_loads_its_models_is_promoting(holder: ServiceEntry, role: str) -> None:
    assert service_status.rows(seen(holder))[0].role == role


def test_a_ghost_is_not_shown_beside_its_instance() -> None:
    gone = Check("serfHealth", "Serf Health Status", "critical", "Agent not live", "")
    ghost = replace(entry("a"), node="old", checks=(gone,))
    for entries in ((ghost, entry("a")), (entry("a"), ghost)):
        [row] = service_status.rows(seen(*entries))
        assert (row.verdict, row.reason) == ("passing", "")


def test_a_failing_check_that_says_something_counts_more() -> None:
    alive = Check("a:sidecar", "Sidecar alive", "critical", "", "a", "what it is about")
    lapsed = entry("a", "critical", "CRITICAL SERVER_DOWN")
    both = replace(lapsed, checks=(alive, *lapsed.checks))
    assert service_status.rows(seen(both))[0].reason == "CRITICAL SERVER_DOWN"
    only = replace(lapsed, checks=(alive,))
    assert service_status.rows(seen(only))[0].reason == "Sidecar alive has not run yet"


@pytest.mark.parametrize(
    ("check", "output"),
    [("a:sidecar", "gRPC check 127.0.0.1:9001/live: success"), ("a:verdict", "PASSING OK")],
)
def test_what_a_check_said_before_its_agent_was_restarted_is_no_reason(
    check: str, output: str
) -> None:
    restarted = Check(check, "The check", "critical", output, "a", "what it is about")
    found = service_status.rows(seen(replace(entry("a"), checks=(restarted,))))[0]
    assert found.reason == "The check has not run yet"
