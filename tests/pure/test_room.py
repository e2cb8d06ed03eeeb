"""`make test ROOM=…` finds the tests of a room."""

import pytest

from tests import room


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("test_operator_verbs", "from sidecar.election import orders\n", "operator"),
        ("test_orders", "from sidecar.election import orders\n", "election"),
        (
            "test_drafts",
            "from sidecar.settings.x import a\nfrom sidecar.health import b\n",
            "health",
        ),
        ("test_loops", "from sidecar.runtime.clock import Clock\n", "runtime"),
        (
            "test_mixed",
            "import sidecar.xds.a\nfrom sidecar.xds.b import c\nimport sidecar.cli\n",
            "xds",
        ),
        ("test_electionlike", "", ""),
    ],
)
def test_by_its_name_or_by_what_it_imports(name: str, text: str, found: str) -> None:
    assert room.room_of(name, text) == found


def test_files_are_named_from_the_root() -> None:
    assert "tests/pure/test_election.py" in room.main("election").split()
    assert set(room.main("xds").split()).isdisjoint(room.main("election").split())


def test_what_is_no_room_is_told() -> None:
    with pytest.raises(SystemExit, match=r"ROOM=kitchen: expected one of .*election"):
        room.main("kitchen")
