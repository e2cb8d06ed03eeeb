"""Who of the control planes is waited for, as a table of what may happen to the list."""

from sidecar.consul.api import ServiceEntry
from sidecar.control_planes.membership import AWAY, NOT_ASKED, Heard, Listing, Membership, name_of


def entry(name: str, port: int = 1) -> ServiceEntry:
    return ServiceEntry("node", name, "planes", "10.0.0.1", port, (), {}, 1, 1, ())


A, B = entry("a"), entry("b")
NOBODY: Membership[str] = Membership()
BOTH = NOBODY.listed(Listing((A, B)), 0.0)


def test_before_consul_has_answered_nothing_is_known() -> None:
    assert NOBODY.heard(0.0) == Heard((), (), NOT_ASKED)


def test_who_is_listed_is_waited_for_until_it_speaks() -> None:
    assert BOTH.heard(0.0) == Heard((None, None), (), "")
    assert BOTH.said(name_of(B), "x").heard(9.0) == Heard((None, "x"), (), "")


def test_who_joins_is_asked() -> None:
    first = NOBODY.listed(Listing((A,)), 0.0).said(name_of(A), "x")
    assert first.listed(Listing((A, B)), 1.0).heard(1.0) == Heard(("x", None), (), "")


def test_who_left_is_waited_for_a_while_longer() -> None:
    gone = BOTH.listed(Listing((A,)), 1.0)
    assert gone.heard(AWAY) == Heard((None, None), (), "")
    later = gone.listed(Listing((A,)), 2.0)  # counts from when it was first missed
    assert later.heard(1.0 + AWAY) == Heard((None,), (None,), "")


def test_who_comes_back_has_not_left() -> None:
    back = BOTH.listed(Listing((A,)), 1.0).listed(Listing((A, B)), 2.0)
    assert back.heard(1.0 + AWAY) == Heard((None, None), (), "")


def test_who_left_and_speaks_still_is_waited_for() -> None:
    speaks = BOTH.said(name_of(B), "busy").listed(Listing((A,)), 1.0)
    assert speaks.heard(100.0) == Heard((None, "busy"), (), "")
    assert speaks.silent(name_of(B)).heard(100.0) == Heard((None,), ("busy",), "")


def test_a_list_with_a_doubt_removes_nobody() -> None:
    doubted = BOTH.listed(Listing((), "may not"), 1.0)
    assert doubted.heard(100.0) == Heard((None, None), (), "may not")
    assert BOTH.doubted("no answer").heard(100.0) == Heard((None, None), (), "no answer")
    assert doubted.listed(Listing((A, B)), 2.0).heard(2.0).doubt == ""


def test_one_at_another_address_has_not_said_what_the_former_one_has() -> None:
    moved = BOTH.said(name_of(B), "x").silent(name_of(B)).listed(Listing((A, entry("b", 2))), 1.0)
    assert moved.heard(1.0) == Heard((None, "x", None), (), "")
    assert moved.heard(1.0 + AWAY) == Heard((None, None), ("x",), "")
