"""Whether processes grow, and what was left behind: from readings to trends and leaks. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median, quantiles

from sidecar.drill.record import ProcessTrend, Violation

_HOUR, _MIB = 3600.0, float(1 << 20)
_WARM = 60.0  # seconds in which a new process may grow: it fills its caches and pools
_SHORTEST = 60.0  # seconds of a life after that, below which its growth says nothing
_APART = 20.0  # seconds between two readings that are compared
# What a process must have grown by within its observed life: smaller steps are the allocator's.
_LEAST, _LEAST_SHARE = 4 * _MIB, 0.05
# Descriptors that a process may have more of than in the beginning: its peers' connections.
_SPARE, _SPARE_SHARE = 8, 0.25
# A stub inherits the descriptors that its Triton has open when it loads the model: those of the
# first start have none, those of a reload have Triton's, which are judged at Triton.
_INHERITING = "triton_python_backend_stub"
_FEWEST = 3  # readings of a process in the table; a fork that has not started its program has fewer
_SHOWN = 5  # entries of a leak that are named


@dataclass(frozen=True, slots=True)
class Reading:
    """One process at a moment.

    Attributes:
        at: seconds on any one clock.
        name: its part, and its program if that is not the part's own.
        life: its pid and its start, so that a new process with its pid is another one.
        rss: bytes of its resident memory.
        descriptors: how many it has open.
    """

    at: float
    name: str
    life: tuple[int, int]
    rss: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """What exists at a moment. Each maps a name to how many there are."""

    processes: Mapping[str, int] = field(default_factory=dict)
    descriptors: Mapping[str, int] = field(default_factory=dict)
    shared_memory: Mapping[str, int] = field(default_factory=dict)
    consul: Mapping[str, int] = field(default_factory=dict)


def inventory(
    readings: Iterable[Reading], shared_memory: Mapping[str, int], consul: Mapping[str, int]
) -> Inventory:
    """What exists according to readings of one moment, and to what was listed then."""
    processes: Counter[str] = Counter()
    descriptors: Counter[str] = Counter()
    for each in readings:
        processes[each.name] += 1
        descriptors[each.name] += each.descriptors
    return Inventory(processes, descriptors, shared_memory, consul)


def leaks(before: Inventory, after: Inventory) -> Iterator[Violation]:
    """What there is more of than in the beginning, one violation per kind."""
    kinds = (
        ("leaked_processes", _more(before.processes, after.processes)),
        ("leaked_descriptors", _many_more(before.descriptors, after.descriptors)),
        ("leaked_shared_memory", _more(before.shared_memory, after.shared_memory)),
        ("leaked_consul_entries", _more(before.consul, after.consul)),
    )
    for code, found in kinds:
        if found:
            more = len(found) - _SHOWN
            named = ", ".join(found[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
            yield Violation(code, "no more than in the beginning", named)


def trends(
    readings: Sequence[Reading], since: float, before: Inventory, after: Inventory
) -> tuple[ProcessTrend, ...]:
    """The trend of each process by name, from its readings since a moment."""
    names: dict[str, list[Reading]] = {}
    for each in readings:
        names.setdefault(each.name, []).append(each)
    return tuple(
        _trend(name, own, since, before.descriptors.get(name, 0), after.descriptors.get(name, 0))
        for name, own in sorted(names.items())
        if len(own) >= _FEWEST
    )


def growing(found: Iterable[ProcessTrend], bound: float) -> Iterator[Violation]:
    """One violation that names the processes whose memory grows, if there are any."""
    if named := [_growth(each) for each in found if grows(each, bound)]:
        yield Violation("memory", f"at most {bound:g} MiB an hour", ", ".join(named))


def _growth(trend: ProcessTrend) -> str:
    slope, grown = (trend.slope or 0.0) / _MIB, trend.grown / _MIB
    return f"{trend.name} ({slope:.1f} MiB an hour, {grown:.1f} MiB in {trend.observed:.0f} s)"


def grows(trend: ProcessTrend, bound: float) -> bool:
    """Whether memory grows faster than `bound` MiB an hour, and by more than noise.

    Three quarters of all pairs of readings have to agree: a single step, as when a pool doubles, is
    no trend, nor is a saw.
    """
    if trend.slope_least is None:
        return False
    noise = max(_LEAST, _LEAST_SHARE * trend.rss)
    return trend.slope_least > bound * _MIB and trend.grown > noise


def _trend(
    name: str, own: Sequence[Reading], since: float, before: int, after: int
) -> ProcessTrend:
    lives: dict[tuple[int, int], list[Reading]] = {}
    for each in own:
        lives.setdefault(each.life, []).append(each)
    judged = [
        [each for each in life if each.at >= max(since, life[0].at + _WARM)]
        for life in lives.values()
    ]
    judged = [life for life in judged if life and _span(life) >= _SHORTEST]
    slopes = [slope for life in judged for slope in _slopes(life)]
    middle = least = None
    if len(slopes) > 1:
        least, middle, _ = quantiles(slopes, n=4)
    observed = max(map(_span, judged), default=0.0)
    return ProcessTrend(
        name=name,
        lives=len(lives),
        observed=observed,
        rss=round(median(each.rss for each in own)),
        slope=middle,
        slope_least=least,
        grown=max(0.0, (middle or 0.0) * observed / _HOUR),
        descriptors_before=before,
        descriptors_after=after,
    )


def _span(life: Sequence[Reading]) -> float:
    return life[-1].at - life[0].at


def _slopes(life: Sequence[Reading]) -> Iterator[float]:
    """Bytes an hour between every two readings that are far enough apart."""
    for first, second in combinations(life, 2):
        apart = second.at - first.at
        if apart >= _APART:
            yield (second.rss - first.rss) / apart * _HOUR


def _more(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    return [
        _change(name, before.get(name, 0), count)
        for name, count in sorted(after.items())
        if count > before.get(name, 0)
    ]


def _many_more(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """The same, where a few more mean nothing; what is new altogether counts as a process."""
    return [
        _change(name, before[name], count)
        for name, count in sorted(after.items())
        if name in before
        and _INHERITING not in name
        and count > before[name] + max(_SPARE, _SPARE_SHARE * before[name])
    ]


def _change(name: str, before: int, after: int) -> str:
    return f"{name} ({before} before, {after} after)" if before else name
