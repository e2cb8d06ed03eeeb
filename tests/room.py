"""Which modules of tests try one room of sidecar/: `make test ROOM=election`.

A module in whose name a room stands is that room's; any other is of the room of which it imports
the most modules. Settings and a local mesh are what tests are made of: they count last.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Folders that hold what protoc has made, or data, are no rooms.
ROOMS = tuple(
    path.name
    for path in sorted((ROOT / "sidecar").iterdir())
    if list(path.glob("*.py")) and path.name not in ("v1", "_assets")
)
FOLDERS = ("pure", "contract")
_IMPORT = re.compile(r"^(?:from|import) sidecar\.(\w+)\b|^from sidecar import (\w+)", re.MULTILINE)
_MATERIAL = ("settings", "local", "runtime", "consul", "triton")


def room_of(name: str, text: str) -> str:
    """The room that a module of tests tries; empty if it is about none.

    Args:
        name: of its file, without the suffix.
        text: what is in it.
    """
    named = [word for word in name.split("_") if word in ROOMS]
    found = [first or second for first, second in _IMPORT.findall(text)]
    imported = Counter(room for room in found if room in ROOMS)
    ranked = sorted(imported, key=lambda room: (room in _MATERIAL, -imported[room], room))
    return next(iter((*named, *ranked)), "")


def files(room: str) -> Iterator[Path]:
    """The modules of tests of a room, without those that start whole meshes."""
    for folder in FOLDERS:
        for path in sorted((ROOT / "tests" / folder).glob("test_*.py")):
            if room_of(path.stem, path.read_text()) == room:
                yield path.relative_to(ROOT)


def main(room: str) -> str:
    """The names of its files, in a line.

    Raises:
        SystemExit: there is no such room.
    """
    if room not in ROOMS:
        sys.exit(f"ROOM={room}: expected one of {', '.join(ROOMS)}")
    return " ".join(map(str, files(room)))


if __name__ == "__main__":
    print(main(sys.argv[1]))
