"""The tables of docs/comparison.md from results. Pure, but for the store's reading."""

import math
from collections.abc import Mapping, Sequence

from benchmarks import markdown
from benchmarks.peers.design import DESIGNS, MISSING, OURS
from benchmarks.peers.faults import FAULTS, Fault
from benchmarks.peers.figures import Seen
from benchmarks.peers.store import Store

_HEAD = (
    *("design", "failed", "wrong", "of", "longest gap", "RTO", "p99, before"),
    *("bad requests, ours to it", "RTO, ours to it"),
)
_CHANCE = 0.5  # seconds


def page(store: Store, about: Sequence[str]) -> str:
    """All tables, one for each scenario that was run, below what they were made with."""
    found = [_scenario(store, fault) for fault in FAULTS]
    missing = "\n".join(f"- {name}: {why}." for name, why in MISSING.items())
    not_run = [fault.title for fault, table in zip(FAULTS, found, strict=True) if not table]
    if not_run:
        missing += f"\n- No design yet: {', '.join(not_run)}."
    texts = [*(table for table in found if table), f"### Not measured\n\n{missing}"]
    return markdown.section(about, "\n\n".join(texts))


def _scenario(store: Store, fault: Fault) -> str:
    found = [(one, result) for one in DESIGNS if (result := store.get(one, fault))]
    seen = {one.name: result.seen for one, result in found if result.seen}
    if not seen:
        return ""
    ours = seen.pop(OURS, None)
    rows = [_row(name, each, ours) for name, each in seen.items()]
    if ours:
        rows.append(_row(OURS, ours, ours))
    lines = [f"### {fault.title}", "", markdown.table(_HEAD, rows)]
    if ours and seen:
        lines += ["", summary(ours, seen)]
    missing = [f"{one.name}: {result.reason}" for one, result in found if not result.seen]
    absent = [f"`{one.name}`" for one in DESIGNS if not store.get(one, fault)]
    missing += [f"not run yet: {', '.join(absent)}"] if absent else []
    return "\n".join([*lines, *(f"\nNot measured: {line}." for line in missing)])


def summary(ours: Seen, peers: Mapping[str, Seen]) -> str:
    """Which peer was best, how ours compares with it, and which peers were better than ours."""
    best = min(peers, key=lambda name: _rank(peers[name]))
    compared = (
        f"Best peer: `{best}`, {_bad(peers[best])} failed or wrong, {_time(peers[best].rto)}; "
        f"ours {_bad(ours)}, {_time(ours.rto)}; ours to it {ratio(_bad(ours), _bad(peers[best]))} "
        f"and {ratio(ours.rto, peers[best].rto)}."
    )
    better = [f"`{name}`" for name, each in peers.items() if _better(each, ours)]
    return f"{compared} Better than ours: {', '.join(better)}." if better else compared


def _rank(seen: Seen) -> tuple[int, float, float]:
    return _bad(seen), math.inf if seen.rto is None else seen.rto, seen.longest_gap


def _better(peer: Seen, ours: Seen) -> bool:
    """Fewer bad requests, or as many and an outage that was shorter by more than chance."""
    by = (math.inf if ours.rto is None else ours.rto) - _rank(peer)[1]
    return _bad(peer) < _bad(ours) or (_bad(peer) == _bad(ours) and by > _CHANCE)


def _bad(seen: Seen) -> int:
    return seen.failed + seen.wrong


def _time(rto: float | None) -> str:
    return "not recovered" if rto is None else f"{rto:.1f} s"


def _ms(seconds: float) -> str:
    return "none" if math.isnan(seconds) else f"{seconds * 1000:.0f} ms"


def _row(name: str, seen: Seen, ours: Seen | None) -> tuple[str, ...]:
    compared = ("", "")
    if ours is not None and ours is not seen:
        compared = (ratio(_bad(ours), _bad(seen)), ratio(ours.rto, seen.rto))
    return (
        f"`{name}`",
        str(seen.failed),
        str(seen.wrong),
        str(seen.sent),
        f"{seen.longest_gap:.1f} s",
        _time(seen.rto),
        f"{_ms(seen.p99)}, {_ms(seen.p99_before)}",
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
