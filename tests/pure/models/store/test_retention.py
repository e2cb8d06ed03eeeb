"""What may be removed: never what is named, was named last, is kept, or is young."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.store import retention
from sidecar.models.store.documents.tags import Naming, Tag
from sidecar.models.store.retention import HeldBlob, HeldSnapshot, Removal, RetentionRules

NOW = 10_000_000.0
DAY = 86400.0
AT = "2026-01-02T03:04:05.678Z"


@dataclass(frozen=True, slots=True)
class Store:
    """What is in a store."""

    snapshots: tuple[HeldSnapshot, ...]
    blobs: dict[str, HeldBlob]
    tags: tuple[Tag, ...]

    def removal(self, rules: RetentionRules) -> Removal:
        return retention.removal(self.snapshots, self.blobs, self.tags, rules, NOW)


def digest(number: int) -> str:
    return f"{number:064x}"


AGES = st.sampled_from([0.0, 60.0, DAY - 1, DAY, DAY + 1, 30 * DAY]).map(lambda age: NOW - age)
BLOBS = st.sets(st.integers(1, 8).map(digest), min_size=1)


@st.composite
def stores(draw: st.DrawFn) -> Store:
    count = draw(st.integers(0, 6))
    snapshots = tuple(
        HeldSnapshot(digest(100 + number), "chat", draw(AGES), frozenset(draw(BLOBS)))
        for number in range(count)
    )
    blobs = {
        digest(number): HeldBlob(draw(st.integers(0, 1000)), draw(AGES)) for number in range(1, 9)
    }
    tags = [
        tag
        for numbers in draw(st.lists(st.lists(st.integers(0, 7), min_size=1), max_size=3))
        for tag in [_tag(numbers)]
    ]
    return Store(snapshots, blobs, tuple(tags))


def _tag(numbers: Sequence[int]) -> Tag:
    tag = Tag(digest(100 + numbers[0]), AT, "x")
    for number in numbers[1:]:
        tag = tag.moved(Naming(digest(100 + number), AT, "x"))
    return tag


RULES = st.builds(
    RetentionRules,
    last=st.integers(1, 4),
    keep=st.frozensets(st.integers(100, 107).map(digest), max_size=2),
    grace=st.sampled_from([0.0, 60.0, DAY]),
    wanted=st.none() | st.integers(-10, 3000),
)


@given(stores(), RULES)
def test_what_remains_is_whole_and_has_all_that_is_kept(
    store: Store, rules: RetentionRules
) -> None:
    plan = store.removal(rules)
    remaining = [each for each in store.snapshots if each.digest not in plan.snapshots]
    for each in remaining:
        assert not each.blobs & set(plan.blobs)
    kept = {each for tag in store.tags for each in tag.last(rules.last)} | rules.keep
    assert not kept & set(plan.snapshots)


@given(stores(), RULES)
def test_nothing_young_is_removed(store: Store, rules: RetentionRules) -> None:
    plan = store.removal(rules)
    ages = {each.digest: each.modified for each in store.snapshots}
    assert all(ages[each] <= NOW - rules.grace for each in plan.snapshots)
    assert all(store.blobs[each].modified <= NOW - rules.grace for each in plan.blobs)


@given(stores(), RULES)
def test_the_oldest_go_first_and_no_more_than_needed(store: Store, rules: RetentionRules) -> None:
    plan, every = store.removal(rules), store.removal(replace(rules, wanted=None))
    assert plan.snapshots == every.snapshots[: len(plan.snapshots)]
    assert plan.size == sum(store.blobs[each].size for each in plan.blobs)
    assert set(plan.blobs) <= set(every.blobs)
    if rules.wanted is None:
        return
    assert rules.wanted <= plan.size or plan == every
    if plan.snapshots:  # without the last of them it would have been too little
        kept = frozenset(every.snapshots[len(plan.snapshots) - 1 :]) | rules.keep
        assert store.removal(replace(rules, keep=kept)).size < rules.wanted


@given(stores(), RULES)
def test_what_is_done_is_done(store: Store, rules: RetentionRules) -> None:
    plan = store.removal(replace(rules, wanted=None))
    after = Store(
        tuple(each for each in store.snapshots if each.digest not in plan.snapshots),
        {key: blob for key, blob in store.blobs.items() if key not in plan.blobs},
        store.tags,
    )
    assert after.removal(replace(rules, wanted=None)) == Removal()


def test_a_snapshot_that_could_not_be_removed_keeps_its_blobs() -> None:
    survivor = HeldSnapshot(digest(100), "chat", NOW, frozenset({digest(1)}))
    assert retention.unused([digest(1), digest(2)], [survivor]) == (digest(2),)
