"""Which control planes a drain waits for, as the list changes."""

from sidecar.consul.api import ServiceEntry
from sidecar.control_planes.membership import (
    GRACE,
    NOT_LISTED_YET,
    Listing,
    Membership,
    PlaneReports,
    plane_key,
)


def entry(name: str, port: int = 1) -> ServiceEntry:
    return ServiceEntry("node", name, "planes", "10.0.0.1", port, (), {}, 1, 1, ())


A, B = entry("a"), entry("b")
EMPTY: Membership[str] = Membership()
BOTH = EMPTY.listed(Listing((A, B)), 0.0)


def test_before_consul_has_answered_nothing_is_known() -> None:
    assert EMPTY.reports(0.0) == PlaneReports((), (), NOT_LISTED_YET)


def test_a_listed_plane_is_waited_for_until_it_reports() -> None:
    assert BOTH.reports(0.0) == PlaneReports((None, None), (), "")
    assert BOTH.reported(plane_key(B), "x").reports(9.0) == PlaneReports((None, "x"), (), "")


def test_a_new_plane_is_followed() -> None:
    first = EMPTY.listed(Listing((A,)), 0.0).reported(plane_key(A), "x")
    assert first.listed(Listing((A, B)), 1.0).reports(1.0) == PlaneReports(("x", None), (), "")


def test_a_departed_plane_is_waited_for_a_while_longer() -> None:
    gone = BOTH.listed(Listing((A,)), 1.0)
    assert gone.reports(GRACE) == PlaneReports((None, None), (), "")
    later = gone.listed(Listing((A,)), 2.0)  # counts from when it was first missing
    assert later.reports(1.0 + GRACE) == PlaneReports((None,), (None,), "")


def test_a_returning_plane_is_followed_again() -> None:
    back = BOTH.listed(Listing((A,)), 1.0).listed(Listing((A, B)), 2.0)
    assert back.reports(1.0 + GRACE) == PlaneReports((None, None), (), "")


def test_a_departed_plane_that_still_streams_is_waited_for() -> None:
    speaks = BOTH.reported(plane_key(B), "busy").listed(Listing((A,)), 1.0)
    assert speaks.reports(100.0) == PlaneReports((None, "busy"), (), "")
    assert speaks.disconnected(plane_key(B)).reports(100.0) == PlaneReports((None,), ("busy",), "")


def test_an_incomplete_list_removes_no_plane() -> None:
    listing_failed = BOTH.listed(Listing((), "may not"), 1.0)
    assert listing_failed.reports(100.0) == PlaneReports((None, None), (), "may not")
    assert BOTH.listing_failed("no answer").reports(100.0) == PlaneReports(
        (None, None), (), "no answer"
    )
    assert listing_failed.listed(Listing((A, B)), 2.0).reports(2.0).incomplete == ""


def test_reports_do_not_carry_over_to_another_address() -> None:
    moved = (
        BOTH.reported(plane_key(B), "x")
        .disconnected(plane_key(B))
        .listed(Listing((A, entry("b", 2))), 1.0)
    )
    assert moved.reports(1.0) == PlaneReports((None, "x", None), (), "")
    assert moved.reports(1.0 + GRACE) == PlaneReports((None, None), ("x",), "")
