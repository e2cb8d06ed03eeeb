"""The tests of one room or module of sidecar/: `make test ROOM=election` or `ROOM=election/lease`.

tests/pure and tests/contract mirror sidecar/: the tests of `sidecar/election/lease.py` are
`tests/pure/election/test_lease*.py`. Tests that start whole meshes are left out.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("pure", "contract")


def places(room: str) -> Iterator[Path]:
    """The folders and files that hold the tests of a room, or of a module of one."""
    folder, _, module = room.rpartition("/")
    for kind in FOLDERS:
        tests = ROOT / "tests" / kind
        found = [tests / room, *sorted((tests / folder).glob(f"test_{module}*.py"))]
        yield from (path.relative_to(ROOT) for path in found if path.exists())


def main(room: str) -> str:
    """The paths of a room's tests, on one line.

    Raises:
        SystemExit: the room has no tests.
    """
    found = " ".join(map(str, places(room)))
    if not found:
        rooms = sorted(path.name for path in (ROOT / "tests" / "pure").iterdir() if path.is_dir())
        sys.exit(f"ROOM={room}: expected a folder or module of sidecar/: {', '.join(rooms)}")
    return found


if __name__ == "__main__":
    print(main(sys.argv[1]))
