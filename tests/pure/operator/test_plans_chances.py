"""Which instance an order would choose, and why not another one."""

import json
from dataclasses import replace

import pytest

from sidecar.cli.operator import json_output, text_output
from sidecar.operator import plans, service_status
from sidecar.operator.service_status import ServiceStatus
from sidecar.runtime.errors import Conflict
from tests.support.operator_scene import NOW, WISH, cold, entry, seen


def test_every_instances_chance_is_listed_in_order() -> None:
    now = seen(
        entry("a"),
        entry("b", priority="50"),
        entry("c"),
        cold("d"),
        entry("e", tags=["nofailover"]),
    )
    preview = plans.preview_failover(now, WISH)
    assert preview.winner == "c"
    assert preview.refusal.startswith("a is primary")
    assert [(each.id, each.place, bool(each.why)) for each in preview.chances] == [
        ("c", 1, False),
        ("b", 2, False),
        ("d", 3, False),
        ("a", 0, True),
        ("e", 0, True),
    ]


def test_how_long_each_instance_still_settles() -> None:
    settles, gone = {"settled_at": f"{NOW + 2.34}"}, {"settled_at": f"{NOW - 1}"}
    failing = entry("d", "critical", "CRITICAL", **settles)
    now = seen(
        entry("a", "critical", **settles), entry("b", **settles), entry("c", **gone), failing
    )
    assert {row.id: row.settling_seconds for row in service_status.rows(now)} == {
        "a": 0.0,  # it is primary
        "b": 2.3,
        "c": 0.0,
        "d": 0.0,  # it does not pass, so it does not settle either
    }
    found = plans.preview_failover(now, WISH)
    assert found.winner == "c"
    assert {each.id: each.settling_seconds for each in found.chances} == {
        "a": 0.0, "b": 2.3, "c": 0.0, "d": 0.0
    }  # fmt: skip
    assert service_status.settling_text(2.3) == "settling, 3 s to go"


def test_settling_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    now = seen(entry("a"), entry("b", settled_at=f"{NOW + 2.34}"))
    text_output.situation(now, False)
    assert f"passing, {service_status.settling_text(2.34)}" in capsys.readouterr().out
    text_output.MoveLines().foresight(plans.preview_failover(now, WISH))
    assert service_status.settling_text(2.34) in capsys.readouterr().out
    json_output.situation(now)
    listed = {row["id"]: row for row in json.loads(capsys.readouterr().out)["instances"]}
    assert (listed["a"]["settling_seconds"], listed["b"]["settling_seconds"]) == (0.0, 2.3)
    json_output.MoveObject().foresight(plans.preview_failover(now, WISH))
    chances = {each["id"]: each for each in json.loads(capsys.readouterr().out)["chances"]}
    assert chances["b"]["settling_seconds"] == 2.3


def test_without_a_fit_instance_there_is_no_winner() -> None:
    preview = plans.preview_failover(seen(entry("a", "critical", "x"), holder=None), WISH)
    assert (preview.winner, preview.lost) == (None, ())
    assert "no other instance" in preview.refusal


def test_the_best_instance_wins_if_nothing_prevents_it() -> None:
    preview = plans.preview_failover(seen(entry("a"), entry("b"), holder=None), WISH)
    assert (preview.winner, preview.refusal) == ("a", "")


def test_a_named_instance_would_win_if_the_order_were_not_refused() -> None:
    preview = plans.preview_failover(seen(entry("a"), entry("b")), replace(WISH, to="b"))
    assert (preview.winner, bool(preview.refusal)) == ("b", True)
    with pytest.raises(Conflict, match=r"^c: "):
        plans.preview_failover(seen(entry("a"), entry("b")), replace(WISH, to="c"))


def places(
    now: ServiceStatus, wish: plans.OrderRequest
) -> tuple[str | None, dict[str, tuple[int, str]]]:
    found = plans.preview_failover(now, wish)
    return found.winner, {each.id: (each.place, "; ".join(each.why)) for each in found.chances}


def test_if_an_instance_is_named_only_it_may_win() -> None:
    now = seen(entry("a"), entry("b"), entry("c", priority="200"), cold("d"), holder=None)
    assert places(now, WISH) == ("c", {"c": (1, ""), "a": (2, ""), "b": (3, ""), "d": (4, "")})
    assert places(now, replace(WISH, to="b")) == (
        "b",
        {name: (int(name == "b"), "" if name == "b" else "b is named") for name in "bacd"},
    )
    # Even if a healthy primary is an objection.
    now = seen(entry("a"), entry("b"), entry("c", priority="200"))
    winner, table = places(now, replace(WISH, to="b"))
    assert (winner, table["b"][0], table["c"]) == ("b", 1, (0, "b is named"))
    # The named instance is not fit: no winner.
    failing = entry("b", "critical", "CRITICAL MODEL_HUNG: chat")
    winner, table = places(seen(failing, entry("c"), holder=None), replace(WISH, to="b"))
    assert (winner, {place for place, _ in table.values()}) == (None, {0})
    assert "MODEL_HUNG" in table["b"][1]


def test_with_force_the_winner_is_in_the_table_too() -> None:
    now = seen(entry("a"), entry("b", tags=["nofailover"]), entry("c", "critical", "x"))
    winner, table = places(now, replace(WISH, force=True))
    assert (winner, table["b"], table["a"]) == ("b", (1, ""), (0, "it is primary already"))


def test_an_unknown_service_is_refused() -> None:
    with pytest.raises(Conflict, match="no such service"):
        plans.refuse_empty(seen())
