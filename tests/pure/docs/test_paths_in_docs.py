"""The modules that the docs name exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/*.md")]
    if path.name != "CHANGELOG.md"  # which is about earlier versions
)
TESTS = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
# `sidecar/a/b.py`, `a/b.py` below sidecar/, `tests/a/test_b.py`; a bare file name is no path.
_PATH = re.compile(r"(?<![\w./*])((?:\w+/)+\w+\.(?:py|lua))\b")
_BELOW = ("", "sidecar", "tests", "tests/integration")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_module_that_a_page_names_exists(page: Path) -> None:
    named = set(_PATH.findall(page.read_text()))
    gone = [path for path in named if not any((ROOT / base / path).exists() for base in _BELOW)]
    assert sorted(gone) == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_test_module_that_a_page_names_exists(page: Path) -> None:
    assert set(re.findall(r"\btest_\w+\.py\b", page.read_text())) - TESTS == set()


def test_each_module_that_a_docstring_names_exists() -> None:
    """By its path below the root, below sidecar/ or one of its rooms, or next to the module."""
    gone = [
        f"{source.relative_to(ROOT)}: {path}"
        for source in sorted((ROOT / "sidecar").rglob("*.py"))
        for path in re.findall(r"`([\w/]+\.(?:py|lua))`", source.read_text())
        if not any((base / path).exists() for base in (ROOT, *source.parents))
    ]
    assert gone == []
