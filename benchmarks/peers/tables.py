"""The tables of docs/comparison.md from results. Pure, but for the store's reading."""

import math
from collections.abc import Mapping, Sequence

from benchmarks import markdown
from benchmarks.peers.design import DESIGNS, MISSING, OURS, Design
from benchmarks.peers.faults import FAULTS, Fault
from benchmarks.peers.figures import Seen
from benchmarks.peers.store import Result, Session, Store

_HEAD = (
    *("design", "failed", "wrong", "of", "longest gap", "RTO", "p99, before"),
    *("bad requests, ours to it", "RTO, ours to it"),
)
_EMPTY = ("",) * (len(_HEAD) - 2)
_CHANCE = 0.5  # seconds


def page(store: Store) -> str:
    """All tables, one for each scenario that was run, below what they were made with."""
    found = [_scenario(store, fault) for fault in FAULTS]
    missing = "\n".join(f"- {name}: {why}." for name, why in MISSING.items())
    not_run = [fault.title for fault, table in zip(FAULTS, found, strict=True) if not table]
    if not_run:
        missing += f"\n- No design yet: {', '.join(not_run)}."
    texts = [*(table for table in found if table), f"### Not measured\n\n{missing}"]
    return markdown.section(about(store.sessions), "\n\n".join(texts))


def about(sessions: Sequence[Session]) -> list[str]:
    """What the results were made with, a line for each call of the benchmark."""
    lines, before = [], ""
    for one in sessions:
        jobs = f"{one.jobs} runs at a time" if one.jobs > 1 else "one run at a time"
        made_with = f"{one.machine}; {one.versions}; load: {one.load}"
        same = "; all else as before" if made_with == before else f"; {made_with}"
        short = f", SHORTENED to {one.share:g} of the time, no results" if one.share != 1 else ""
        lines.append(f"{one.began[:10]}, `{one.command}`, {jobs}{short}{same}")
        before = made_with
    return lines


def _scenario(store: Store, fault: Fault) -> str:
    found = [(one.name, store.get(one, fault)) for one in DESIGNS]
    seen = {name: result.seen for name, result in found if result and result.seen}
    if not seen:
        return ""
    ours = seen.get(OURS)
    rows = [_row(one, seen.get(one.name), ours) for one in DESIGNS]
    lines = [f"### {fault.title}", "", markdown.table(_HEAD, rows)]
    peers = {one.name: seen[one.name] for one in DESIGNS if one.name in seen and not one.ours}
    if ours and peers:
        all_peers = sum(not one.ours for one in DESIGNS)
        partly = f"{len(peers)} of {all_peers} peers are measured. "
        lines += ["", f"{partly if len(peers) < all_peers else ''}{summary(ours, peers)}"]
    return "\n".join([*lines, *(f"\n{line}" for line in _reasons(found))])


def _reasons(found: Sequence[tuple[str, Result | None]]) -> list[str]:
    """Why designs were not measured, or are to be measured again, a line for each reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, result in found:
        if not (result and result.seen):
            reason = "Not measured", result.reason if result else "not run yet"
        elif result.outdated:
            reason = "To be measured again", result.outdated
        else:
            continue
        reasons.setdefault(reason, []).append(f"`{name}`")
    return [f"{what}: {', '.join(names)}: {why}." for (what, why), names in reasons.items()]


def summary(ours: Seen, peers: Mapping[str, Seen]) -> str:
    """Which peer was best, how ours compares with it, and which peers were better than ours."""
    best = min(peers, key=lambda name: _rank(peers[name]))
    compared = (
        f"Best peer: `{best}`, {_bad(peers[best])} failed or wrong, {_time(peers[best].rto)}; "
        f"ours {_bad(ours)}, {_time(ours.rto)}; ours to it {ratio(_bad(ours), _bad(peers[best]))} "
        f"and {ratio(ours.rto, peers[best].rto) or 'ours did not recover'}."
    )
    better = [f"`{name}`" for name, each in peers.items() if _better(each, ours)]
    return f"{compared} Better than ours: {', '.join(better)}." if better else compared


def _rank(seen: Seen) -> tuple[int, float, float]:
    return _bad(seen), math.inf if seen.rto is None else seen.rto, seen.longest_gap


def _better(peer: Seen, ours: Seen) -> bool:
    """Fewer bad requests, else a shorter outage, else faster answers; times by more than chance."""
    if _bad(peer) != _bad(ours):
        return _bad(peer) < _bad(ours)
    if peer.rto is None and ours.rto is None:
        return ours.p99 - peer.p99 > _CHANCE
    return _rank(ours)[1] - _rank(peer)[1] > _CHANCE


def _bad(seen: Seen) -> int:
    return seen.failed + seen.wrong


def _time(rto: float | None) -> str:
    return "not recovered" if rto is None else f"{rto:.1f} s"


def _ms(seconds: float) -> str:
    return "none" if math.isnan(seconds) else f"{seconds * 1000:.0f} ms"


def _row(design: Design, seen: Seen | None, ours: Seen | None) -> tuple[str, ...]:
    if seen is None:
        return f"`{design.name}`", "not measured", *_EMPTY
    compared = ("", "")
    if ours is not None and not design.ours:
        compared = (ratio(_bad(ours), _bad(seen)), ratio(ours.rto, seen.rto))
    return (
        f"`{design.name}`",
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
