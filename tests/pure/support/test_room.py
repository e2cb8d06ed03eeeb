"""`make test ROOM=…` finds the tests of a room, and of a module, by their path."""

import pytest

from tests import room


@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("election", {"tests/pure/election"}),
        ("consul", {"tests/pure/consul", "tests/contract/consul"}),
        ("election/lease", {"tests/pure/election/test_lease.py"}),
        ("lifecycle", {"tests/pure/test_lifecycle.py"}),
    ],
)
def test_by_its_path(name: str, some: set[str]) -> None:
    assert some <= set(room.main(name).split())


def test_what_is_no_room_is_told() -> None:
    with pytest.raises(SystemExit, match=r"ROOM=kitchen: expected a folder .*election"):
        room.main("kitchen")
