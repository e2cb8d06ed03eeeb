"""When a change of the primary counts as published, and as known to all Envoys."""

from sidecar.control_planes.membership import PlaneReports
from sidecar.control_planes.rpc import Primary
from sidecar.drill.samples import Mark
from sidecar.drill.stage.observation import everywhere, mark_of, preferred
from sidecar.local.timeline import Sighting

OLD = Primary(True, "a", 7, 2, 2)
NEW = Primary(True, "b", 9, 2, 2)
COMING = Primary(True, "b", 9, 2, 1)
OF_OTHERS = Primary(False, "", 0, 3, 0)


def reports(*found: Primary | None, incomplete: str = "") -> PlaneReports[Primary]:
    return PlaneReports(found, (), incomplete)


def test_any_control_plane_publishes() -> None:
    assert preferred(reports(OLD, COMING, None)) == COMING
    assert preferred(reports(OF_OTHERS, None)) is None


def test_all_envoys_of_all_control_planes_have_to_know() -> None:
    assert everywhere(reports(NEW, NEW, OF_OTHERS), NEW)
    assert not everywhere(reports(NEW, OLD), NEW)
    assert not everywhere(reports(NEW, COMING), NEW)
    assert not everywhere(reports(NEW, None), NEW)
    assert not everywhere(reports(NEW, incomplete="Consul does not answer"), NEW)


def test_without_an_envoy_nobody_knows() -> None:
    lone = Primary(True, "b", 9, 0, 0)
    assert not everywhere(reports(lone), lone)


def test_a_mark_has_the_fields_of_what_was_seen() -> None:
    verdict = Sighting(12.0, "verdict", "a", "critical", "MODEL_HUNG")
    made = mark_of(verdict, 10.0)
    assert made == Mark(2.0, "verdict", "a", status="critical", reason="MODEL_HUNG")
    assert mark_of(Sighting(12.0, "primary", "b", "9"), 10.0) == Mark(2.0, "primary", "b", epoch=9)
    assert mark_of(Sighting(12.0, "traffic", "b", "3"), 10.0) is None
