"""Which vanished instances stay published, and which leader counts: Consul may be wrong. Pure.

Consul can be wrong in ways that must not move traffic: an agent restarted and has not registered
its services yet, an entry was deleted by mistake, a token was revoked and the catalog looks empty,
a development agent lost everything. Envoy checks the endpoints on its own, so keeping an instance
that was healthy costs little; dropping one that is healthy costs requests.

So an instance that vanishes without having deregistered is retained, and its sidecar is queried:

| the instance says    | the view is evident             | it is not                             |
|----------------------|---------------------------------|---------------------------------------|
| it serves            | kept, for `longest` at most     | kept                                  |
| it does not serve    | dropped                         | kept, for `longest` at most           |
| nothing              | dropped after `hold`            | kept                                  |

Until then, one that says it does not serve, or says nothing, gets requests only as a last resort.

A view is evident if a trustworthy read showed the same, or if it shows a usable instance and lacks
no more than a `share` of the known ones. If it may hide some, that is enough only against those
that say themselves that they do not serve.

Two rules can conflict: an unverified empty set is never published, and nothing dead is kept
forever. The first one wins: keeping a dead instance costs nothing while others are usable, and
dropping a live one costs every request. So the last usable one is kept even beyond `longest` for as
long as it says that it serves.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from sidecar.election.keys.lock import ElectionLock
from sidecar.xds.catalog.catalog import Instance, Leader


@dataclass(frozen=True, slots=True)
class Leadership:
    """The last accepted leader, and the newest epoch seen."""

    leader: Leader | None = None
    newest_epoch: int = 0


def is_regression(previous: Leadership, lock: ElectionLock) -> bool:
    """Whether it takes a `consistent` read to tell if the store lost its history."""
    return lock.instance is not None and lock.epoch < previous.newest_epoch


def retain_leader(
    previous: Leadership, lock: ElectionLock, *, verified: bool = False
) -> Leadership:
    """The leadership after a read of the lock.

    Only a held lock changes it (`ElectionLock.instance` is set only if the session that holds the
    lock wrote the epoch), and an older epoch only if `verified`: a consistent read showed it, so
    the store lost its history. While the lock is free the last leader stays preferred; its health
    decides whether it is usable.
    """
    if lock.instance is None or (is_regression(previous, lock) and not verified):
        return previous
    return Leadership(Leader(lock.instance, lock.epoch), lock.epoch)


@dataclass(frozen=True, slots=True)
class CatalogView:
    """What one read of the catalog showed.

    `complete` is False if there are more instances, about which nothing could be learned. It is
    `doubtful` if it may hide some: an agent streamed it, or the token may not see everything. It is
    `verified` if a trustworthy read showed the same.
    """

    instances: tuple[Instance, ...] = ()
    complete: bool = True
    verified: bool = False
    doubtful: bool = False

    def adds_to(self, other: "CatalogView | None") -> bool:
        """Whether it differs from another view, or is better evidence for the same."""
        if other is None:
            return True
        seen = (self.instances, self.complete) == (other.instances, other.complete)
        return not seen or (other.doubtful and not self.doubtful)

    @property
    def shows_usable(self) -> bool:
        """Whether any instance may get new requests."""
        return any(instance.usable for instance in self.instances)

    @property
    def shows_last(self) -> bool:
        """Whether any instance gets new requests, at least if no other is left."""
        return any(instance.usable_last or instance.hands_over for instance in self.instances)


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """How long to retain what Consul does not show; seconds.

    An instance that vanished has to be silent for `hold`, from the first query on, to be dropped.
    One that says that it serves is kept for `longest`, or longer if no other is usable. If more
    than `share` of the instances vanish at once, even a view that shows others needs verification.
    """

    hold: float = 60.0
    longest: float = 3600.0
    share: float = 0.5


@dataclass(frozen=True, slots=True)
class SelfReport:
    """What a vanished instance reports about itself.

    `alive` is when (monotonic seconds) it last said that it serves; `gone` whether its last answer
    was that it does not, or that nothing listens; `silent` whether the last query got no answer.
    `asked` is the time of the first query: infinite until then.
    """

    alive: float | None = None
    gone: bool = False
    silent: bool = False
    asked: float = -math.inf


SelfReports = Mapping[str, SelfReport]
_NO_REPORT = SelfReport()


@dataclass(frozen=True, slots=True)
class RetentionState:
    """The instances to publish, and since when (monotonic seconds) some are missing.

    `since` is the time of the first read of the service; `settled` as in `ServiceCatalog`.
    `dropped` are those whose retention ended just now, and why.
    """

    since: float
    instances: tuple[Instance, ...] = ()
    missing: Mapping[str, float] = field(default_factory=dict)
    settled: bool = False
    dropped: Mapping[str, str] = field(default_factory=dict)


def retain(
    previous: RetentionState,
    view: CatalogView,
    reports: SelfReports,
    now: float,
    rules: RetentionRules,
) -> RetentionState:
    """The state after a read of the catalog, given the reports of missing instances.

    An instance that was draining before it vanished goes at once. The last good instance is never
    dropped just for being invisible: a view without a usable instance is no evidence until
    verified. A service is settled as soon as a complete view shows an instance that is usable, or
    gets requests as a last resort, or when the others have had `hold` seconds to come up.
    """
    missing = {
        instance.id: previous.missing.get(instance.id, now)
        for instance in _vanished(previous.instances, view.instances)
    }
    evident = is_evident(view, len(missing), rules)
    plausible = is_plausible(view, len(missing), rules)
    ended: Mapping[str, str] = {
        name: why
        for name, since in missing.items()
        if (why := _end(reports.get(name, _NO_REPORT), since, now, evident, plausible, rules))
    }
    if not evident and not view.instances and len(ended) == len(missing):
        ended = {}  # an unverified empty set
    ended = _spare_the_last(previous.instances, view, missing, ended, reports, now, rules)
    retained = [each for each in previous.instances if each.id in missing and each.id not in ended]
    if view.shows_usable or _reporting_serving(retained, reports, now, rules):
        retained = [_as_reported(each, reports.get(each.id, _NO_REPORT)) for each in retained]
    early = view.shows_last and view.complete
    waited = evident and now >= previous.since + rules.hold
    return RetentionState(
        since=previous.since,
        instances=tuple(sorted((*view.instances, *retained), key=lambda instance: instance.id)),
        missing={instance.id: missing[instance.id] for instance in retained},
        settled=previous.settled or early or waited,
        dropped=ended,
    )


def _spare_the_last(
    before: tuple[Instance, ...],
    view: CatalogView,
    missing: Mapping[str, float],
    ended: Mapping[str, str],
    reports: SelfReports,
    now: float,
    rules: RetentionRules,
) -> Mapping[str, str]:
    """Those to drop, minus those that say they serve if no other instance is usable."""
    absent = [each for each in before if each.id in missing]
    if view.shows_usable or any(each.usable and each.id not in ended for each in absent):
        return ended
    spared = _reporting_serving(absent, reports, now, rules)
    return {name: why for name, why in ended.items() if name not in spared}


def _as_reported(instance: Instance, report: SelfReport) -> Instance:
    """One retained next to usable ones: it is used only if it says that it serves."""
    answered = report.alive is not None or report.gone or report.silent
    return replace(instance, silent=report.gone or report.silent) if answered else instance


def _reporting_serving(
    missing: Iterable[Instance], reports: SelfReports, now: float, rules: RetentionRules
) -> set[str]:
    """Those that are usable, and said recently that they serve."""
    found = {each.id: reports.get(each.id, _NO_REPORT) for each in missing if each.usable_last}
    return {
        name
        for name, report in found.items()
        if report.alive is not None and not report.gone and now < report.alive + rules.hold
    }


def is_evident(view: CatalogView, missing: int, rules: RetentionRules) -> bool:
    """Whether a view that lacks so many is evidence that they are gone."""
    return view.verified or (is_plausible(view, missing, rules) and not view.doubtful)


def is_plausible(view: CatalogView, missing: int, rules: RetentionRules) -> bool:
    """Whether a view that lacks so many confirms those that say they do not serve."""
    sudden = missing > rules.share * (missing + len(view.instances))
    return view.verified or (view.shows_usable and not sudden)


def _end(
    report: SelfReport,
    since: float,
    now: float,
    evident: bool,
    plausible: bool,
    rules: RetentionRules,
) -> str | None:
    """Why it is no longer retained, or None if it is."""
    if report.gone and plausible:
        return "it reports so itself"
    if not evident:
        # Whether or not Consul is right, the instance has said so for long enough.
        return "it reports so itself" if report.gone and now >= since + rules.longest else None
    if now < _deadline(report, since, rules):
        return None
    return "it did not register again" if report.alive else "it did not answer"


def _deadline(report: SelfReport, since: float, rules: RetentionRules) -> float:
    if report.asked == math.inf:
        return report.asked
    silent_since = max(since, report.asked, -math.inf if report.alive is None else report.alive)
    # One that was missing for long before our start is queried by us before it is dropped.
    longest = max(since + rules.longest, report.asked + rules.hold)
    return min(silent_since + rules.hold, longest)


def next_deadline(
    state: RetentionState, reports: SelfReports, now: float, rules: RetentionRules
) -> float | None:
    """When (monotonic seconds) to look again although nothing has changed."""
    waiting = [state.since + rules.hold] if not state.settled else []
    for name, since in state.missing.items():
        report = reports.get(name, _NO_REPORT)
        waiting += [_deadline(report, since, rules), since + rules.longest]
        waiting += [] if report.alive is None else [report.alive + rules.hold]
    # Past deadlines, and instances not queried yet, wait for another view or report.
    return min((at for at in waiting if now < at < math.inf), default=None)


def wants_verification(
    state: RetentionState, view: CatalogView, now: float, rules: RetentionRules
) -> bool:
    """Whether the catalog has to prove what it shows.

    An entry that cannot be read does exist: that no other is usable proves nothing.
    """
    uncertain = bool(state.missing) or (not state.settled and now >= state.since + rules.hold)
    provable = view.complete or view.shows_usable
    return uncertain and provable and not is_evident(view, len(state.missing), rules)


def _vanished(before: tuple[Instance, ...], observed: tuple[Instance, ...]) -> tuple[Instance, ...]:
    """Those that went without notice; one that was handing over was still serving.

    One whose address, or its sidecar's, now belongs to another instance was renamed or moved: the
    other one would answer in its place.
    """
    ids = {instance.id for instance in observed}
    endpoints = {instance.endpoint for instance in observed}
    sidecars = {(instance.address, instance.health_port) for instance in observed}
    return tuple(
        instance
        for instance in before
        if instance.id not in ids
        and instance.endpoint not in endpoints
        and (instance.address, instance.health_port) not in sidecars
        and (instance.hands_over or not instance.draining)
    )
