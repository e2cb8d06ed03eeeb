"""The rows of `list`: roles, reasons, objections."""

from dataclasses import replace

import pytest

from sidecar.consul.api import Check, ServiceEntry
from sidecar.operator import service_status
from tests.support.operator_scene import SETS, cold, entry, seen


def test_rows_have_role_reason_and_objections() -> None:
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
        # Out of service, it promotes nothing.
        (entry("a", maintenance="new disk"), "primary"),
    ],
)
def test_an_instance_that_loads_its_models_is_promoting(holder: ServiceEntry, role: str) -> None:
    assert service_status.rows(seen(holder))[0].role == role


def test_a_stale_entry_is_not_shown_next_to_the_real_one() -> None:
    gone = Check("serfHealth", "Serf Health Status", "critical", "Agent not live", "")
    ghost = replace(entry("a"), node="old", checks=(gone,))
    for entries in ((ghost, entry("a")), (entry("a"), ghost)):
        [row] = service_status.rows(seen(*entries))
        assert (row.verdict, row.reason) == ("passing", "")


def test_a_failing_check_with_an_output_takes_precedence() -> None:
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
def test_an_output_from_before_the_agents_restart_is_not_a_reason(check: str, output: str) -> None:
    restarted = Check(check, "The check", "critical", output, "a", "what it is about")
    found = service_status.rows(seen(replace(entry("a"), checks=(restarted,))))[0]
    assert found.reason == "The check has not run yet"
