"""What the checks in Consul say about an instance, and which of several entries counts."""

from dataclasses import replace

import pytest

from sidecar.consul.api import Check, ServiceEntry
from sidecar.registry.checks import WITHDRAWN, is_withdrawal, objection
from sidecar.registry.duplicate_entries import fold
from sidecar.registry.registration import maintenance_of_others, withdrawn

SERF = Check("serfHealth", "Serf Health Status", "passing", "Agent alive and reachable", "")
VERDICT = Check("a:verdict", "Triton verdict", "passing", "PASSING OK", "a")
SIDECAR = Check("a:sidecar", "Sidecar alive", "passing", "gRPC check: success", "a")
DISK = Check("disk", "disk", "critical", "is full\nby 3 GiB", "")
MODE = Check("_node_maintenance", "Node Maintenance Mode", "critical", "", "", "new kernel")
OWN_MODE = Check("_service_maintenance:a", "Service Maintenance Mode", "critical", "", "a", "rest")


def critical(check: Check, output: str = "it is ill") -> Check:
    return replace(check, status="critical", output=output)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ((), None),
        ((DISK,), "disk: is full"),
        ((replace(DISK, service_id="a"),), "disk: is full"),
        ((replace(DISK, status="warning"),), None),
        ((MODE,), "new kernel"),
        ((OWN_MODE,), "rest"),
        ((replace(MODE, notes=""),), "Node Maintenance Mode"),
        ((DISK, MODE, OWN_MODE), "new kernel"),
        ((OWN_MODE, MODE, DISK), "new kernel"),
        # Checks of other instances on the node.
        ((replace(DISK, service_id="b"),), None),
        ((replace(OWN_MODE, id="_service_maintenance:b", service_id="b"),), None),
        # The sidecar's own checks.
        ((critical(VERDICT), critical(SIDECAR)), None),
        ((replace(OWN_MODE, notes=WITHDRAWN),), None),
        ((replace(OWN_MODE, notes=WITHDRAWN), MODE), "new kernel"),
        # Checks that say nothing about the instance: its agent is gone, or the check has not run.
        ((critical(SERF, "Agent not live or unreachable"),), None),
        ((critical(DISK, ""),), None),
        ((critical(DISK, "TTL expired (last output before timeout follows): fine"),), None),
    ],
)
def test_why_others_want_an_instance_out_of_service(
    found: tuple[Check, ...], why: str | None
) -> None:
    assert objection((SERF, VERDICT, SIDECAR, *found), "a", {}) == why


NAMED = {"withdrawal_reason": "rest"}


@pytest.mark.parametrize(
    ("notes", "meta", "own"),
    [
        # Its sidecar has registered the reason that it gives: only that reason is its own.
        ("rest", NAMED, True),
        ("new disk", NAMED, False),
        (WITHDRAWN, NAMED, False),
        ("", NAMED, False),
        # An earlier version has not registered it, and uses only one.
        (WITHDRAWN, {}, True),
        ("rest", {}, False),
    ],
)
def test_whether_a_maintenance_mode_is_the_sidecars_own(
    notes: str, meta: dict[str, str], own: bool
) -> None:
    mode = replace(OWN_MODE, notes=notes)
    assert is_withdrawal(mode, meta) == own
    assert (objection((mode,), "a", meta) is None) == own
    found = replace(entry("n", mode), meta=meta)
    assert withdrawn(found) == own
    assert (maintenance_of_others(found) is None) == own
    assert not is_withdrawal(replace(MODE, notes=notes), meta)  # the node's is never its own


def entry(node: str, *checks: Check, name: str = "a") -> ServiceEntry:
    return ServiceEntry(node, name, "t", "10.0.0.1", 1, (), {}, 1, 1, checks)


LIVE, GHOST = entry("new", SERF, VERDICT), entry("old", critical(SERF), VERDICT)


@pytest.mark.parametrize(
    ("seen", "believed"),
    [
        ((GHOST,), [("a", "old")]),
        ((GHOST, LIVE), [("a", "new")]),
        ((LIVE, GHOST), [("a", "new")]),
        # However unhealthy it is, it is the real one.
        ((GHOST, entry("new", SERF, critical(VERDICT))), [("a", "new")]),
        ((entry("new", SERF, critical(VERDICT)), entry("old", SERF)), [("a", "old")]),
        ((entry("y", SERF), entry("x", SERF)), [("a", "x")]),
        ((entry("x", SERF, name="b"), GHOST, LIVE), [("a", "new"), ("b", "x")]),
    ],
)
def test_ghosts_do_not_count(
    seen: tuple[ServiceEntry, ...], believed: list[tuple[str, str]]
) -> None:
    assert [(each.id, each.node) for each in fold(seen)] == believed
