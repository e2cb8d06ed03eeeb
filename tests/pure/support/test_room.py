"""`make test ROOM=…` finds the tests of a room, and of a module, by their path."""

import re
from pathlib import Path

import pytest

from tests import room
from tests.room import FOLDERS, ROOT

# Tests of modules outside sidecar/.
_OTHERS = {"benchmarks", "deploy", "docs", "support", "triton_models"}
# Of several modules at once, or of versions.
_SCENARIOS = {"test_garbage", "test_odd_models", "test_rolling_upgrade"}


@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("election", {"tests/pure/election"}),
        ("consul", {"tests/pure/consul", "tests/contract/consul"}),
        ("election/lease", {"tests/pure/election/test_lease.py"}),
        ("lifecycle", {"tests/pure/test_lifecycle.py"}),
    ],
)
def test_a_room_is_found_by_its_path(name: str, some: set[str]) -> None:
    assert some <= set(room.main(name).split())


def test_an_unknown_room_is_reported() -> None:
    with pytest.raises(SystemExit, match=r"ROOM=kitchen: expected a folder .*election"):
        room.main("kitchen")


@pytest.mark.parametrize("kind", FOLDERS)
def test_each_test_module_is_named_after_what_it_tests(kind: str) -> None:
    tests = ROOT / "tests" / kind
    assert [path for path in sorted(tests.rglob("test_*.py")) if not _mirrors(path, tests)] == []


@pytest.mark.parametrize(
    "folder", ["pure", "contract", "integration", "support", "chaos", "checks"]
)
def test_no_module_imports_a_test_module(folder: str) -> None:
    """Code that several test modules use is in tests/support."""
    imports = re.compile(r"^\s*(from|import) tests\.\S*\btest_", re.MULTILINE)
    modules = sorted((ROOT / "tests" / folder).rglob("*.py"))
    assert [path for path in modules if imports.search(path.read_text())] == []


def _mirrors(path: Path, tests: Path) -> bool:
    place = path.relative_to(tests).parent
    if path.stem in _SCENARIOS or (place.parts[:1] and place.parts[0] in _OTHERS):
        return True
    modules = {found.stem for found in (ROOT / "sidecar" / place).iterdir()}
    return any(f"{path.stem}_".startswith(f"test_{name}_") for name in modules)
