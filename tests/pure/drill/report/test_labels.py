"""No label above a timeline overlaps another, or the line of another."""

from hypothesis import given
from hypothesis import strategies as st

from sidecar.drill.report import labels
from sidecar.drill.report.labels import Label

LETTER = 7.0
texts = st.text("abcdefgh", min_size=1, max_size=16)
places = st.lists(st.tuples(texts, st.floats(0, 800)), max_size=20)


def ordered(found: list[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted(found, key=lambda each: each[1])


@given(places)
def test_no_flag_overlaps_another_or_its_line(found: list[tuple[str, float]]) -> None:
    made = labels.flags(ordered(found), LETTER)
    for each in made:
        for other in made:
            within = each.at <= other.at < each.at + labels.width(each.text, LETTER)
            # The line of `other` reaches up to its lane: it may not cross the text of `each`.
            assert each is other or not within or other.lane < each.lane or other.at == each.at
            assert each is other or (each.lane, each.at) != (other.lane, other.at)


@given(places)
def test_flags_keep_their_order_and_places(found: list[tuple[str, float]]) -> None:
    made = labels.flags(ordered(found), LETTER)
    assert [(each.text, each.at) for each in made] == ordered(found)


def test_flags_that_have_room_stand_in_the_lowest_lane() -> None:
    assert [each.lane for each in labels.flags([("a", 0), ("b", 100), ("c", 101)], LETTER)] == [
        0,
        1,
        0,
    ]


@given(st.lists(st.floats(0, 800), min_size=1, max_size=200))
def test_numbers_name_every_event_once_and_do_not_overlap(at: list[float]) -> None:
    made = labels.numbers(sorted(at), LETTER, 3)
    ends = [each.at + labels.width(each.text, LETTER) for each in made]
    assert all(end < each.at for end, each in zip(ends, made[1:], strict=False))
    named: list[int] = []
    for each in made:
        first, _, last = each.text.partition("-")
        named += range(int(first), int(last or first) + 1)
    assert named == list(range(3, 3 + len(at)))


@given(
    st.lists(st.tuples(st.floats(0, 20), st.floats(1, 200)), max_size=20),
    st.floats(1, 50),
)
def test_there_is_room_for_the_last_label(ends: list[tuple[float, float]], margin: float) -> None:
    span = labels.room(ends, 20.0, 300.0, margin)
    assert span >= 20.0
    for at, wide in ends:
        assert at / span * 300.0 + wide <= 300.0 + margin + 1e-6


def test_equal_places_get_different_lanes() -> None:
    assert labels.flags([("a", 5), ("b", 5)], LETTER) == (Label("a", 5, 1), Label("b", 5, 0))
