"""Two records side by side: what got worse beyond the noise of their rounds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

from sidecar.drill.record import Record, Run
from sidecar.drill.report.figures import KINDS, Kind

# `unknown`: it was not seen in both, or neither more nor less of it is better.
Change = Literal["worse", "better", "same", "unknown"]

# A change of a time counts from these on, however little the rounds differ among themselves.
_SHARE: Final = 0.1
_SECONDS: Final = 0.005
# With fewer rounds nothing is known about their spread, and a change has to be larger.
_ROUNDS: Final = 3
_FEW_SHARE: Final = 0.5
_FEW_SECONDS: Final = 0.1
# From the median of the distances to the median, to three standard deviations of a normal spread.
_NOISE: Final = 3 * 1.4826
# More of these is worse; of the other counts nothing is known.
_COSTS: Final = frozenset(
    {"failed", "wrong", "streams_cut", "streams_wrong", "wrong_after_verdict"}
)
# What was seen and is not seen any more: these did not happen, and that is worse.
_AWAITED: Final = frozenset({"detection", "decision", "publication", "acked", "rto", "recovered"})


@dataclass(frozen=True, slots=True)
class Side:
    """A figure in the rounds of one record. The spread is the median distance to the median."""

    rounds: int
    median: float | None
    spread: float = 0.0
    most: float = 0.0


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure before and after. `ratio` is None if there is none."""

    kind: Kind
    old: Side
    new: Side
    change: Change

    @property
    def ratio(self) -> float | None:
        """The new median in units of the old one."""
        if not self.old.median or self.new.median is None:
            return None
        return self.new.median / self.old.median


@dataclass(frozen=True, slots=True)
class ScenarioCompared:
    """A scenario in both records. `change` is about whether it passes; `note` says how often."""

    name: str
    note: str
    change: Change
    figures: tuple[Compared, ...]

    @property
    def worse(self) -> bool:
        """Whether it, or a figure of it, got worse."""
        return "worse" in (self.change, *(each.change for each in self.figures))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two records. `differences` are sentences about why they may not be comparable."""

    differences: tuple[str, ...]
    scenarios: tuple[ScenarioCompared, ...]

    @property
    def worse(self) -> bool:
        """Whether anything got worse: then the command's exit status is not that of success."""
        return any(each.worse for each in self.scenarios)


def compare(old: Record, new: Record) -> Comparison:
    """The new record against the old one."""
    names = dict.fromkeys(run.scenario for record in (old, new) for run in record.runs)
    pairs = ((name, _made(old, name), _made(new, name)) for name in names)
    both = [pair for pair in pairs if pair[1] and pair[2]]
    return Comparison(
        differences=tuple(_differences(old, new)),
        scenarios=tuple(_scenario(*pair) for pair in both),
    )


def judge(kind: Kind, old: Side, new: Side) -> Change:
    """Whether a figure changed by more than noise."""
    if old.median is None or new.median is None:
        lost = old.median is not None and kind.name in _AWAITED
        return "worse" if lost else "unknown"
    if kind.unit != "seconds":
        return _of_counts(old, new) if kind.name in _COSTS else "unknown"
    few = min(old.rounds, new.rounds) < _ROUNDS
    share, least = (_FEW_SHARE, _FEW_SECONDS) if few else (_SHARE, _SECONDS)
    noise = max(least, share * old.median, _NOISE * max(old.spread, new.spread))
    by = new.median - old.median
    return "worse" if by > noise else "better" if by < -noise else "same"


def _of_counts(old: Side, new: Side) -> Change:
    before, after = old.median or 0.0, new.median or 0.0
    if new.most > old.most and after >= before:
        return "worse"
    return "better" if new.most < old.most and after <= before else "same"


def _made(record: Record, scenario: str) -> list[Run]:
    """The rounds of a scenario that were made."""
    return [run for run in record.runs if run.scenario == scenario and run.status != "skipped"]


def _scenario(name: str, old: Sequence[Run], new: Sequence[Run]) -> ScenarioCompared:
    compared = ((kind, _side(old, kind), _side(new, kind)) for kind in KINDS)
    before, after = _passing(old), _passing(new)
    change: Change = "worse" if after < before else "better" if after > before else "same"
    note = f"passed {_of(old)}, then {_of(new)}"
    figures = (Compared(*each, judge(*each)) for each in compared)
    seen = (each for each in figures if (each.old.median, each.new.median) != (None, None))
    return ScenarioCompared(name, note, change, tuple(seen))


def _side(runs: Sequence[Run], kind: Kind) -> Side:
    every = [getattr(run.figures, kind.name) for run in runs]
    values: list[float] = [each for each in every if each is not None]
    if not values:
        return Side(len(runs), None)
    middle = median(values)
    spread = median(abs(each - middle) for each in values)
    return Side(len(runs), middle, spread, max(values))


def _passing(runs: Sequence[Run]) -> float:
    return sum(run.status == "passed" for run in runs) / len(runs)


def _of(runs: Sequence[Run]) -> str:
    return f"{sum(run.status == 'passed' for run in runs)} of {len(runs)}"


def _differences(old: Record, new: Record) -> Iterator[str]:
    """What was not the same for both, in sentences."""
    for name in ("machine", "mesh", "load", "seed"):
        before, after = getattr(old.environment, name), getattr(new.environment, name)
        if before != after:
            yield f"the {name} differs: {before or 'unknown'}, then {after or 'unknown'}"
    yield from _changed("version of", old.environment.versions, new.environment.versions)
    yield from _changed("objective", old.objectives, new.objectives)
    names = dict.fromkeys(run.scenario for record in (old, new) for run in record.runs)
    for name in names:
        made = bool(_made(old, name)), bool(_made(new, name))
        if made == (True, False):
            yield f"{name} was made before, and not now"
        elif made == (False, True):
            yield f"{name} was not made before"


def _changed(what: str, old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[str]:
    for name in sorted({*old, *new}):
        before, after = old.get(name, "none"), new.get(name, "none")
        if before != after:
            yield f"the {what} {name} differs: {before}, then {after}"
