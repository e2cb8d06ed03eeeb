"""The record of drills: what was done, observed and found, as values and as JSON.

    {"version": 1, "environment": {...}, "objectives": {...}, "runs": [...]}

Reports, comparisons and exit statuses are made of it alone. Formats only gain fields.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sidecar.drill.samples import Mark, Sample
from sidecar.runtime.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Made = TypeVar("_Made", bound="DataclassInstance")

VERSION = 1
SOAK = "soak"  # the run of a soak's record that is about all of it
# `skipped`: not possible on this mesh. `aborted`: a stop condition, or the operator, ended it.
Status = Literal["passed", "failed", "aborted", "skipped"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run cost. Times are seconds after the injection, or None if not seen.

    Attributes:
        detection: the victim's verdict changed in Consul.
        decision: another instance took the lock.
        publication: a control plane built the snapshot without the victim.
        acked: the last Envoy accepted that snapshot.
        rto: the first right answer of an instance that was not primary before. If the victim is
            the mesh, since the old primary stopped passing or lost the lock, whichever was first.
        recovered: everything was as before the injection.
        sent, failed, wrong: unary requests that ended from the injection on.
        retried: requests that Envoy sent to a second instance.
        p50, p99, slowest: of unary requests answered from the injection on.
        p99_before: of those answered before it.
        longest_gap: the longest time that any one client waited without a right answer.
        streams, streams_cut, streams_moved: that ended from the injection on; moved are those that
            another instance finished.
        budget_used: the share of the error budget of all unary requests of the run that the
            failures used; None without a budget.
        streams_wrong: that ended from the injection on, and whose text was wrong.
        wrong_last: when the last request with a wrong answer was sent, of either kind.
        wrong_after_verdict: requests with a wrong answer, of either kind, that were sent after the
            victim's verdict had reached the Envoys.
        availability: the share of all unary requests of the run that were answered, also of those
            that ended before the injection; None if there were none.
        load_lag: the longest time by which the load's own process delayed a unary request that
            ended from the injection on; None without one.
    """

    detection: float | None = None
    decision: float | None = None
    publication: float | None = None
    acked: float | None = None
    rto: float | None = None
    recovered: float | None = None
    sent: int = 0
    failed: int = 0
    wrong: int = 0
    retried: int | None = None
    p50: float | None = None
    p99: float | None = None
    p99_before: float | None = None
    slowest: float | None = None
    longest_gap: float | None = None
    streams: int = 0
    streams_cut: int = 0
    streams_moved: int = 0
    budget_used: float | None = None
    streams_wrong: int = 0
    wrong_last: float | None = None
    wrong_after_verdict: int = 0
    availability: float | None = None
    load_lag: float | None = None


@dataclass(frozen=True, slots=True)
class Violation:
    """An objective or expectation that did not hold. `code` is for programs, such as `failed`."""

    code: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one scenario.

    `reason` says for people why it was skipped or aborted, `code` for programs: `needs`,
    `not_steady`, or that of a stop condition.
    """

    scenario: str
    title: str
    hypothesis: str
    round: int
    victim: str
    status: Status
    code: str = ""
    reason: str = ""
    figures: Figures = Figures()
    violations: tuple[Violation, ...] = ()
    marks: tuple[Mark, ...] = ()
    samples: tuple[Sample, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and how drills ran. `began` is ISO 8601 in UTC, `versions` by program."""

    began: str
    command: str
    machine: str
    mesh: str
    seed: int
    load: str
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProcessTrend:
    """How a process used memory and descriptors during a soak.

    Attributes:
        name: its part, and its program if that is not the part's own.
        lives: how many processes of this name there were, as each restart makes a new one.
        observed: seconds of the longest life that was judged; 0 if all were too short.
        rss: bytes of resident memory, the median.
        slope: bytes an hour by which that grew, the median of all pairs of readings.
        slope_least: bytes an hour of which three quarters of all pairs had more.
        grown: bytes by which it grew within `observed`, by its slope.
        descriptors_before, descriptors_after: open descriptors of all processes of this name.
    """

    name: str
    lives: int
    observed: float
    rss: int
    slope: float | None = None
    slope_least: float | None = None
    grown: float = 0.0
    descriptors_before: int = 0
    descriptors_after: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """All runs of one command, in order. `objectives` are as they were given, by name.

    `processes` are those of a soak; other drills have none.
    """

    environment: Environment
    objectives: dict[str, float]
    runs: tuple[Run, ...] = ()
    processes: tuple[ProcessTrend, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every run that could be made passed, and one was made."""
        made = [run for run in self.runs if run.status != "skipped"]
        return bool(made) and all(run.status == "passed" for run in made)


def dumps(record: Record) -> str:
    """The record as JSON text. Samples are stored by column, which is a fifth as long."""
    document = dataclasses.asdict(record)
    for run, made in zip(document["runs"], record.runs, strict=True):
        run["samples"] = _columns(made.samples)
    return json.dumps({"version": VERSION, **document}, separators=(",", ":"))


def loads(text: str, where: str) -> Record:
    """The record in a text; `where` names it in errors.

    Raises:
        ConfigError: it is not the text of a record of this version.
    """
    try:
        document = json.loads(text)
        if document["version"] != VERSION:
            raise ConfigError(f"{where}: expected version {VERSION}, found {document['version']}")
        runs = tuple(_run(each) for each in document["runs"])
        trends = tuple(_known(ProcessTrend, each) for each in document.get("processes", ()))
        environment = _known(Environment, document["environment"])
        return Record(environment, document["objectives"], runs, trends)
    except (ValueError, KeyError, TypeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{where}: expected a drill's record, found {what}") from error


def _columns(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    names = [each.name for each in dataclasses.fields(Sample)]
    return {name: [getattr(sample, name) for sample in samples] for name in names}


def _run(document: dict[str, Any]) -> Run:
    columns = document["samples"]
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    parts = {
        "figures": _known(Figures, document["figures"]),
        "violations": tuple(_known(Violation, each) for each in document["violations"]),
        "marks": tuple(_known(Mark, each) for each in document["marks"]),
        "samples": tuple(_known(Sample, row) for row in rows),
    }
    return _known(Run, document | parts)


def _known(made: type[_Made], document: Mapping[str, Any]) -> _Made:
    """A value from its fields in a document; those that only a newer version knows are ignored."""
    names = {each.name for each in dataclasses.fields(made)}
    return made(**{name: value for name, value in document.items() if name in names})
