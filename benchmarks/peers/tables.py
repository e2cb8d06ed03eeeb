"""The tables of docs/comparison.md from results. Pure, but for the store's reading."""

from collections.abc import Sequence

from benchmarks import markdown
from benchmarks.peers.design import DESIGNS, MISSING, OURS, Design
from benchmarks.peers.faults import FAULTS, Fault
from benchmarks.peers.figures import Seen
from benchmarks.peers.store import Store

_HEAD = (
    *("design", "failed", "wrong", "of", "longest gap", "RTO", "p99, before"),
    *("bad requests, ours to it", "RTO, ours to it"),
)


def page(store: Store, about: Sequence[str]) -> str:
    """All tables, one for each scenario that was run, below what they were made with."""
    found = [_scenario(store, fault) for fault in FAULTS]
    missing = "\n".join(f"- {name}: {why}." for name, why in MISSING.items())
    texts = [*(table for table in found if table), f"### Not measured\n\n{missing}"]
    return markdown.section(about, "\n\n".join(texts))


def _scenario(store: Store, fault: Fault) -> str:
    found = [(one, result) for one in DESIGNS if (result := store.get(one, fault))]
    seen = [(one, result.seen) for one, result in found if result.seen]
    if not seen:
        return ""
    ours = next((each for one, each in seen if one.name == OURS), None)
    rows = [_row(one, each, ours) for one, each in seen]
    lines = [f"### {fault.title}", "", markdown.table(_HEAD, rows)]
    missing = [f"{one.name}: {result.reason}" for one, result in found if not result.seen]
    best = min((each for one, each in seen if one.name != OURS), key=_bad, default=None)
    if ours and best:
        lines += ["", _verdict(ours, best, seen)]
    return "\n".join([*lines, *(f"\nNot measured: {line}" for line in missing)])


def _verdict(ours: Seen, best: Seen, seen: Sequence[tuple[Design, Seen]]) -> str:
    name = next(one.name for one, each in seen if each is best)
    return (
        f"Best peer: {name}, {_bad(best)} failed or wrong; ours {_bad(ours)}"
        f" ({ratio(_bad(ours), _bad(best))})."
    )


def _bad(seen: Seen) -> int:
    return seen.failed + seen.wrong


def _row(design: Design, seen: Seen, ours: Seen | None) -> tuple[str, ...]:
    compared = ("", "")
    if ours is not None and ours is not seen:
        compared = (ratio(_bad(ours), _bad(seen)), ratio(ours.rto, seen.rto))
    return (
        f"`{design.name}`",
        str(seen.failed),
        str(seen.wrong),
        str(seen.sent),
        f"{seen.longest_gap:.1f} s",
        "not recovered" if seen.rto is None else f"{seen.rto:.1f} s",
        f"{seen.p99 * 1000:.0f} ms, {seen.p99_before * 1000:.0f} ms",
        *compared,
    )


def ratio(ours: float | None, theirs: float | None) -> str:
    """How much ours is of theirs. None is a time that did not end."""
    if ours is None or theirs is None:
        return "" if ours is None else "0"
    if not theirs:
        return "equal" if not ours else "theirs is 0"
    return f"{ours / theirs:.2f}"


def designs() -> str:
    """Which designs there are, and what was tuned."""
    rows = [(f"`{one.name}`", one.title, one.tuning) for one in DESIGNS]
    return markdown.table(("name", "design", "what was tuned"), rows)
