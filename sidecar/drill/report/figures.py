"""How the figures of a run are called, printed, and held against the objectives."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from sidecar.drill.record import Figures, Run

Unit = Literal["seconds", "count", "share"]
# `open`: there is an objective, and the run did not come to it. Empty: there is no objective.
Met = Literal["met", "not met", "open", ""]

NOT_SEEN: Final = "not seen"


@dataclass(frozen=True, slots=True)
class Kind:
    """A figure: the field's name in Figures, its title, its unit, and what it means."""

    name: str
    title: str
    unit: Unit
    meaning: str


KINDS: Final = (
    Kind("detection", "detection", "seconds", "the victim's verdict changed in Consul"),
    Kind("decision", "decision", "seconds", "another instance took the lock"),
    Kind("publication", "publication", "seconds", "a control plane built the new snapshot"),
    Kind("acked", "last ACK", "seconds", "the last Envoy accepted that snapshot"),
    Kind("rto", "RTO", "seconds", "until the first right answer of a new primary"),
    Kind("recovered", "recovered", "seconds", "everything was as before the injection"),
    Kind("sent", "requests", "count", "unary, ended after the injection"),
    Kind("failed", "failed", "count", "without an answer"),
    Kind("wrong", "wrong", "count", "answered wrongly"),
    Kind("retried", "retried", "count", "sent to a second instance by Envoy"),
    Kind("p50", "median latency", "seconds", "after the injection"),
    Kind("p99", "p99 latency", "seconds", "after the injection"),
    Kind("p99_before", "p99 before", "seconds", "before the injection"),
    Kind("slowest", "slowest", "seconds", "answer after the injection"),
    Kind("longest_gap", "longest gap", "seconds", "one client without a right answer"),
    Kind("streams", "streams", "count", "ended after the injection"),
    Kind("streams_cut", "streams cut", "count", "ended early"),
    Kind("streams_moved", "streams moved", "count", "finished by another instance"),
    Kind("budget_used", "error budget used", "share", "by the failures"),
    Kind("streams_wrong", "streams wrong", "count", "with a wrong text"),
    Kind("wrong_last", "last wrong", "seconds", "the last request answered wrongly was sent"),
    Kind("wrong_after_verdict", "wrong too late", "count", "sent after Envoys had the verdict"),
    Kind("availability", "availability", "share", "of all requests of the run that were answered"),
    Kind("load_lag", "load's own lag", "seconds", "the longest delay of a request by its process"),
)
# Left out of a run's table where they are nothing.
_RARE: Final = frozenset(
    {
        *("streams_moved", "streams_wrong", "wrong_last", "wrong_after_verdict"),
        *("availability", "load_lag"),  # of records before these were measured
    }
)
# A load that was late for so long, and for such a share of the slowest request, may explain it.
_LATE: Final = 0.05
_LATE_SHARE: Final = 0.25
# Objectives, and codes of violations, that are about a figure of another name.
_BOUNDS: Final = {
    "wrong_window": "wrong_last",
    "role_moved": "decision",
    "role_kept": "decision",
    "unhealthy": "detection",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A figure as it is printed. `objective` is empty if there is none."""

    kind: Kind
    shown: str
    objective: str
    met: Met


def rows(run: Run, objectives: Mapping[str, float]) -> Iterator[Row]:
    """The figures of a run that was made, against its objectives.

    Whether one is met is what the run's violations say, because only measuring knows which
    objective applies. An objective may be for one scenario alone: `freeze.rto`.
    """
    violated = {_BOUNDS.get(each.code, each.code) for each in run.violations}
    given = {_BOUNDS.get(name, name): (name, value) for name, value in of(run, objectives).items()}
    for kind in KINDS:
        if kind.name in _RARE and not getattr(run.figures, kind.name) and kind.name not in violated:
            continue
        shown = printed(kind, run.figures)
        name, bound = given.get(kind.name, ("", None))
        objective = "" if bound is None else bounded(name, bound)
        yield Row(kind, shown, objective, _met(kind, run, violated, bound))


def of(run: Run, objectives: Mapping[str, float]) -> dict[str, float]:
    """The objectives of a run, by name: the general ones, and those of its scenario."""
    general = {name: value for name, value in objectives.items() if "." not in name}
    prefix = f"{run.scenario}."
    own = {n.removeprefix(prefix): v for n, v in objectives.items() if n.startswith(prefix)}
    return general | own


def printed(kind: Kind, figures: Figures) -> str:
    """A figure in words, such as `13 ms`."""
    value: float | None = getattr(figures, kind.name)
    return NOT_SEEN if value is None else amount(kind.unit, value)


def amount(unit: Unit, value: float) -> str:
    """A value with its unit."""
    match unit:
        case "seconds":
            return duration(value)
        case "count":
            return f"{value:,.0f}"
        case _:
            return _share(value) if value < float("inf") else "there is none"


def hint(run: Run) -> str:
    """That the load itself may explain slow requests and gaps; empty if it does not."""
    lag, slowest = run.figures.load_lag or 0.0, run.figures.slowest or 0.0
    if lag < max(_LATE, _LATE_SHARE * slowest):
        return ""
    return (
        f"the load's own process was late by up to {duration(lag)}, which may explain slow "
        "requests and gaps: it runs at the lowest priority, and needs a free core"
    )


def title(name: str) -> str:
    """What an objective is called, such as `longest gap` or `freeze: RTO`."""
    scenario, _, own = name.rpartition(".")
    titles = {kind.name: kind.title for kind in KINDS}
    called = titles.get(own, own.replace("_", " "))
    return f"{scenario}: {called}" if scenario else called


def bounded(name: str, bound: float) -> str:
    """An objective in words, such as `at most 1 s`."""
    if name == "availability":
        return f"{100 * bound:.6g} % answered"
    if name == "memory_growth":
        return f"at most {bound:g} MiB an hour"
    if name == "wrong_window":
        return f"at most {duration(bound)}"
    known = {kind.name: kind.unit for kind in KINDS}
    return f"at most {amount(known.get(name, 'seconds'), bound)}"


def duration(seconds: float) -> str:
    """Seconds with three digits or so: `13 ms`, `1.24 s`, `2 min 5 s`."""
    size = abs(seconds)
    if size < 0.9995:
        return f"{_digits(1e3 * seconds)} ms"
    if size < 119.5:
        return f"{seconds:.3g} s" if size < 99.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def _share(value: float) -> str:
    """With as many digits as an availability needs: `99.95 %` is not `100 %`."""
    return f"{100 * value:.6g} %" if 0.9 < value < 1 else f"{100 * value:.3g} %"


def _digits(thousandths: float) -> str:
    size = abs(thousandths)
    if size < 0.05:
        return "0"
    return f"{thousandths:.1f}".removesuffix(".0") if size < 9.95 else f"{thousandths:.0f}"


def _met(kind: Kind, run: Run, violated: set[str], bound: float | None) -> Met:
    if kind.name in violated:
        return "not met"
    if bound is None:
        return ""
    unseen = getattr(run.figures, kind.name) is None
    return "open" if unseen or run.status in ("skipped", "aborted") else "met"
