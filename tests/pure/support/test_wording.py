"""Wording is asserted in one place per message: `tests/checks/wording.py`, and what it finds."""

from pathlib import Path

import pytest

from tests.checks import wording

pytestmark = pytest.mark.files

CODE = '''
"""Tells that the disk of the host is full."""

RESTRICTED = "the protocol is restricted"


def told(where: str, answer: str) -> str:
    if RESTRICTED in answer:
        return "no answer in time: " + where
    return f"{where}: the disk is full, free some of it" if where else "Triton: no answer in time"
'''
ONE = '''
@pytest.mark.parametrize(("given", "said"), [("a", "a: the disk is full, free "), ("b", "b: ")])
def test_one(given: str, said: str) -> None:
    """The disk is full, free some of it."""
    assert told(given, "").startswith(said)
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in (("sidecar/disk.py", CODE), ("tests/pure/test_disk.py", ONE)):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path


def test_each_message_is_asserted_in_one_place() -> None:
    assert wording.asserted_twice() == {}


FULL = "FULL = 'the disk is full'\n"
TABLE = "CASES = {1: ('', 'the disk is full')}\n@pytest.mark.parametrize('case', CASES)\n"


@pytest.mark.parametrize(
    ("body", "before"),
    [
        ("assert 'disk is full, free some' in told('a', '')", ""),
        ("assert told('a', '') == 'a: the disk is full'", ""),
        ("assert told('a', '').endswith('full, free some of it')", ""),
        ("with raises(Full, match=r'disk is full.* some of it$'): ...", ""),
        ("wanted = f'{1}: the disk is full'; assert told('1', '') == wanted", ""),
        ("for why in ('the disk is full',): assert why in told('a', '')", ""),
        ("assert FULL in told('a', '')", FULL),
        ("given, why = CASES[case]; assert why in told(given, '')", TABLE),
    ],
)
def test_a_message_that_two_places_assert_is_found(tree: Path, body: str, before: str) -> None:
    (tree / "tests" / "test_other.py").write_text(f"{before}def test_other(case):\n    {body}")
    name = before.partition(" = ")[0] or "test_other"
    places = ["pure/test_disk.py::test_one", f"test_other.py::{name}"]
    assert wording.asserted_twice(tree) == {"{}: the disk is full, free some of it": places}


COLUMNS = "@pytest.mark.parametrize(('given', 'said'), [('the disk is full', 'a')])\n"


@pytest.mark.parametrize(
    ("body", "before"),
    [
        ("given = 'the disk is full'; assert told(given, '') == ''", ""),
        ("assert told('the disk is full, free some of it', '') == ''", ""),
        ("assert told(given, '') == said", COLUMNS),
        ("assert told(FULL, '') == ''", FULL),
        ("assert 'disk is' in told('', '')", ""),
        ("'''The disk is full, free some of it.'''", ""),
    ],
)
def test_an_input_and_a_docstring_assert_nothing(tree: Path, body: str, before: str) -> None:
    (tree / "tests" / "test_other.py").write_text(
        f"{before}def test_other(given, said):\n    {body}"
    )
    assert wording.asserted_twice(tree) == {}


@pytest.mark.parametrize("text", ["no answer in time", "x: the protocol is restricted by x"])
def test_a_phrase_that_many_messages_have_and_another_programs_text_are_no_message(
    tree: Path, text: str
) -> None:
    for name in ("test_some.py", "test_other.py"):
        (tree / "tests" / name).write_text(f"def test_it():\n    assert told('') == '{text}'")
    assert wording.asserted_twice(tree) == {}
