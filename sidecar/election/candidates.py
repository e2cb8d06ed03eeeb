"""Candidates for the role: which may become primary, in which order, and why not. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.election.lease import Role
from sidecar.registry import checks
from sidecar.registry.duplicate_entries import fold
from sidecar.registry.registration import COLD, NOFAILOVER, UNFIT_META
from sidecar.verdict.verdict_line import State

if TYPE_CHECKING:
    from sidecar.consul.api import Check, ServiceEntry

PASSING, WARNING = "passing", "warning"
_SERVING = (PASSING, WARNING)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One instance as a candidate.

    `state` is its verdict in Consul: passing, warning, critical, or cold if its models are not
    loaded but could be. `unfit` is its own objection to itself, `detail` its worst check's output:
    text for people. It is `silent` if none of its critical checks is about the instance itself, and
    `starting` if it has not been proven since its sidecar started. `settled_at` is when (Unix
    seconds) it will have passed for long enough to take the role; None if it has, or if it does
    not publish this, as older sidecars. `promoting`: as the role's holder, it must load its models
    before it serves. `since` is when (monotonic seconds) it began to pass; only this instance's own
    is known.
    """

    id: str
    state: str = PASSING
    priority: int = 100
    cold: bool = False
    model_set: str = ""
    nofailover: bool = False
    maintenance: bool = False
    unfit: str = ""
    silent: bool = False
    detail: str = ""
    starting: bool = False
    settled_at: float | None = None
    promoting: bool = False
    since: float | None = None

    @property
    def serving(self) -> bool:
        """Whether it takes requests."""
        return self.state in _SERVING and not self.maintenance

    def settling(self, wall: float) -> float:
        """Seconds that it must still pass before it takes the role, 0 for none."""
        return 0.0 if self.settled_at is None else max(self.settled_at - wall, 0.0)


@dataclass(frozen=True, slots=True)
class Field:
    """All candidates in the catalog at a time (monotonic seconds)."""

    candidates: tuple[Candidate, ...]
    at: float

    def find(self, instance: str) -> Candidate | None:
        """The candidate with this id."""
        return next((each for each in self.candidates if each.id == instance), None)

    def with_own(self, own: Candidate) -> "Field":
        """The same field with this instance as it knows itself."""
        others = tuple(each for each in self.candidates if each.id != own.id)
        return Field((own, *others), self.at)


def objections(candidate: Candidate, reference: str) -> tuple[str, ...]:
    """Why a candidate may not take the role; none if it is fit.

    Args:
        candidate: the candidate to judge.
        reference: the digest of the model set that a primary must serve, or "" for any.
    """
    ready = candidate.state == PASSING or (candidate.cold and candidate.state == COLD)
    other = candidate.model_set != reference
    # A cold standby's model set may be unknown until it is loaded; it is compared then.
    unknown = not candidate.model_set
    against = (
        (candidate.maintenance, "it is in maintenance"),
        (candidate.nofailover, f"it is tagged {NOFAILOVER}"),
        (not ready, f"its verdict is {candidate.state}: {candidate.detail}".rstrip(": ")),
        (bool(candidate.unfit), candidate.unfit),
        (bool(reference) and unknown and not candidate.cold, "its model set is not known yet"),
        (
            bool(reference) and other and not unknown,
            f"it serves the model set {candidate.model_set}, not {reference}",
        ),
    )
    return tuple(why for applies, why in against if applies)


def is_well(candidate: Candidate) -> bool:
    """Whether an instance passes, or is a cold standby that could be promoted."""
    ready = candidate.state == PASSING or (candidate.cold and candidate.state == COLD)
    return ready and not candidate.maintenance


def ranking(candidates: Iterable[Candidate], reference: str) -> tuple[Candidate, ...]:
    """The fit candidates, best first: hot before cold, then by priority, then by id."""
    fit = [each for each in candidates if not objections(each, reference)]
    return tuple(sorted(fit, key=lambda each: (each.cold, -each.priority, each.id)))


def preference(
    candidates: Iterable[Candidate], reference: str, wall: float
) -> tuple[Candidate, ...]:
    """The fit candidates in the order in which one is chosen when none is named.

    A settled instance precedes one that has not settled; but no cold standby precedes a hot one:
    loading its models takes longer than settling.
    """
    fit = ranking(candidates, reference)
    return tuple(sorted(fit, key=lambda each: (each.cold, each.settling(wall) > 0)))


def reference(declared: str, last: str, candidates: Iterable[Candidate]) -> str:
    """The digest of the model set that a primary must serve, or "" for any.

    It is the declared one; else the last primary's, while some instance that has it serves or may
    do so again soon. Once every such instance has been replaced, any model set will do.
    """
    if declared:
        return declared
    having = (each for each in candidates if each.serving or each.cold or each.silent)
    return last if any(each.model_set == last for each in having) else ""


def resumes(own: Candidate, last: str) -> bool:
    """Whether the last holder still serves, with the model set of its claim, if known.

    WARNING is enough: it was enough while it held the role, too.
    """
    same = last in ("", own.model_set)
    return own.serving and same and not (own.nofailover or own.unfit)


def read(entries: "Iterable[ServiceEntry]") -> tuple[Candidate, ...]:
    """The instances in Consul's catalog as candidates, sorted by id, without duplicate entries."""
    return tuple(_candidate(entry) for entry in fold(entries))


def _candidate(entry: "ServiceEntry") -> Candidate:
    critical = [check for check in entry.checks if check.status == "critical"]
    spoken = [check for check in critical if not checks.is_inconclusive(check)]
    node = any(check.id == checks.NODE for check in critical)
    priority = entry.meta.get("priority", "")
    cold = entry.meta.get("standby") == COLD
    worst = next(iter(spoken or critical), None)
    pushed = checks.pushed_line(worst) if worst else None
    only_verdict = [check.id for check in critical] == [checks.verdict_check(entry.id)]
    ready = cold and only_verdict and pushed is not None and pushed.state is State.COLD
    return Candidate(
        id=entry.id,
        state=COLD if ready else entry.status,
        priority=int(priority) if priority.isascii() and priority.isdigit() else 100,
        cold=cold,
        model_set=entry.meta.get("model_set", ""),
        nofailover=NOFAILOVER in entry.tags,
        maintenance=any(map(checks.is_maintenance, critical)),
        unfit=entry.meta.get(UNFIT_META, ""),
        silent=not spoken and not node,
        detail=_first_line(worst),
        starting=pushed is not None and pushed.state is State.STARTING,
        settled_at=_unix(entry.meta.get("settled_at", "")),
        promoting=cold or entry.meta.get("role") == Role.PROMOTING,
    )


def _unix(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]{1,11}(\.[0-9]{1,6})?", text) else None


def _first_line(check: "Check | None") -> str:
    return check.output.strip().partition("\n")[0][:200] if check else ""
