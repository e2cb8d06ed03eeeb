"""Text that a broken model repeats endlessly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.health.canary.expectations import (
    Equals,
    NotDegenerate,
    broken_by,
)
from tests.support.answers import text


@pytest.mark.parametrize(
    "right",
    [
        "no", "Yes.", "42", "...", "3.00000000", "1000000000", "no no no", "ha ha ha", "哈哈哈",
        "One slow reply may", "- a\n- b\n- c\n- d", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10",
        "Title\n==================\n\nA paragraph that follows its heading.",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        ("The committee met on Tuesday. It heard three reports, asked about the second, and put off"
        " the third until somebody could say where the money for the roof was to come from."),
        ("the cat and the dog and the bird and the fish and the horse and the cow and the hen and"
        " the sheep and the goat and the mouse and the rat and the fox"),
    ],
)  # fmt: skip
def test_short_correct_text_is_not_degenerate(right: str) -> None:
    assert broken_by([NotDegenerate("o")], text(right)) is None


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("", "nothing visible"),
        ("\u200b\n\x00", "nothing visible"),
        ("!!!!!!!!", "one unit of 1 characters repeated 8 times"),
        ("哈" * 9, "one unit of 1 characters repeated 9 times"),
        ("\ufffd" * 8, "one unit of 1 characters repeated 8 times"),
        ("the the the the the", "one unit of 4 characters repeated 4 times"),
        ("I am fine. " * 5, "one unit of 11 characters repeated 4 times"),
        ("Well, the answer to this is" + " so" * 12, "one unit of 3 characters repeated 12 times"),
        ("A good beginning. " + "and then " * 2000, "one unit of 9 characters repeated 454 times"),
        (" ".join(f"so it goes on and on and on, {n}" for n in range(12)),
         "of all sequences of 4 words repeated"),
    ],
)  # fmt: skip
def test_text_that_is_stuck_in_a_loop_is_degenerate(wrong: str, why: str) -> None:
    found = broken_by([NotDegenerate("o")], text(wrong))
    assert found
    assert why in found[1]


@given(st.text(min_size=1, max_size=30), st.integers(8, 40))
def test_any_visible_text_that_repeats_is_degenerate(unit: str, times: int) -> None:
    assert broken_by([NotDegenerate("o")], text((unit * times).encode(errors="replace")))


@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1), unique=True, min_size=1))
def test_many_words_that_all_differ_are_not_degenerate(words: list[str]) -> None:
    found = broken_by([NotDegenerate("o")], text(" ".join(words)))
    assert found is None or "sequences" not in found[1]


def test_invalid_utf8_is_a_fault_and_not_a_crash() -> None:
    found = broken_by([Equals("o", ("hello",))], text(b"\xff\xfe"))
    assert found
    assert found[1] == r"o: equals: expected 'hello', got b'\xff\xfe'"
