"""What to believe of what Consul shows: who leads, and which absence means that one is gone.

Consul can be wrong in ways that must not move traffic: an agent restarted and its services are not
registered again yet, somebody deleted an entry, a token was revoked and the catalog looks empty,
a development agent forgot everything. Envoy checks the endpoints by itself meanwhile, so holding
on to an instance that was healthy costs little; dropping one that is healthy costs requests.

So who vanishes without having said goodbye is held, and is asked. What is believed then:

| the instance says    | the view is evident             | it is not                             |
|----------------------|---------------------------------|---------------------------------------|
| it serves            | kept, for `longest` at most     | kept                                  |
| it does not serve    | gone                            | kept, for `longest` at most           |
| nothing              | gone after `hold`               | kept                                  |

Meanwhile an instance that says it does not serve, or nothing, gets requests only as a last resort.

A view is evident if a read that can be trusted has shown the same, or if it shows an instance that
can be used and misses no more than a `share` of those that are known. Where some may be hidden in
it, that is enough for those who say that they do not serve, and for nobody else.

Two rules can meet: an empty set that nobody has verified is never published, and nothing dead is
kept for ever. The first one wins: what is kept in vain costs nothing while others can be used, and
one that lives and was dropped costs every request. So the last one
that can be used is kept beyond `longest` too for as long as it says that it serves.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from sidecar.election.keys.lock import ElectionLock
from sidecar.xds.catalog.catalog import Instance, Leader


@dataclass(frozen=True, slots=True)
class Leadership:
    """The leader believed last, and the newest epoch seen."""

    leader: Leader | None = None
    newest_epoch: int = 0


def is_regression(previous: Leadership, lock: ElectionLock) -> bool:
    """Whether only a `consistent` read can tell if the store lost its history."""
    return lock.instance is not None and lock.epoch < previous.newest_epoch


def believe_leader(
    previous: Leadership, lock: ElectionLock, *, verified: bool = False
) -> Leadership:
    """The leadership after a look at the lock.

    Only a held lock changes anything (`Lock.instance` is set only if the session that holds it
    wrote the epoch), and one of an older epoch only when `verified`: a consistent read showed it,
    so the store has lost its history. While nobody holds the lock the last leader stays the
    preferred one; whether it can be used is told by its health.
    """
    if lock.instance is None or (is_regression(previous, lock) and not verified):
        return previous
    return Leadership(Leader(lock.instance, lock.epoch), lock.epoch)


@dataclass(frozen=True, slots=True)
class CatalogView:
    """What a look at the catalog showed.

    `complete` is False if there are more instances, of which nothing could be learnt. It is
    `doubtful` if some may be hidden: it is what an agent streams, or the token may not see all. It
    is `verified` if a read that can be trusted has shown the same.
    """

    instances: tuple[Instance, ...] = ()
    complete: bool = True
    verified: bool = False
    doubtful: bool = False

    def adds_to(self, other: "CatalogView | None") -> bool:
        """Whether it shows something else than another one did, or is better evidence of it."""
        if other is None:
            return True
        seen = (self.instances, self.complete) == (other.instances, other.complete)
        return not seen or (other.doubtful and not self.doubtful)

    @property
    def shows_usable(self) -> bool:
        """Whether any instance may be given new requests."""
        return any(instance.usable for instance in self.instances)

    @property
    def shows_last(self) -> bool:
        """Whether any instance is given new requests at least where nobody else is left."""
        return any(instance.usable_last or instance.hands_over for instance in self.instances)


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """How long what is believed though Consul does not show it; seconds.

    Of one that vanished nothing is heard for `hold`, from the first question on, before it is
    believed. One that says that it serves is kept for `longest`, longer if nobody else is usable.
    If more than `share` of the instances are missing at once, a view that shows others has to prove
    itself too.
    """

    hold: float = 60.0
    longest: float = 3600.0
    share: float = 0.5


@dataclass(frozen=True, slots=True)
class SelfReport:
    """What a vanished instance says of itself.

    `alive` is when (monotonic seconds) it last said that it serves; `gone` whether the last that
    was heard is that it does not, or that nobody is there; `silent` whether nothing was heard when
    it was asked last. `asked` is when it was asked first: infinite until then.
    """

    alive: float | None = None
    gone: bool = False
    silent: bool = False
    asked: float = -math.inf


Testimonies = Mapping[str, SelfReport]
_SILENT = SelfReport()


@dataclass(frozen=True, slots=True)
class RetentionState:
    """The instances believed in, and since when (monotonic seconds) some are not seen any more.

    `since` is when the service was first looked at; `settled` as in `ServiceCatalog`. `dropped` are
    those whose hold has just ended, and why.
    """

    since: float
    instances: tuple[Instance, ...] = ()
    missing: Mapping[str, float] = field(default_factory=dict)
    settled: bool = False
    dropped: Mapping[str, str] = field(default_factory=dict)


def retain(
    previous: RetentionState,
    view: CatalogView,
    heard: Testimonies,
    now: float,
    patience: RetentionRules,
) -> RetentionState:
    """The memory after a look at the catalog, given what those who are missing say.

    Who said goodbye is believed at once: it was draining before. The last good instance never goes
    because nobody sees it: a view without a usable instance is no evidence until it is verified. A
    service is settled as soon as a complete view shows an instance that is usable, or is given
    requests where nobody is, or when the others had `hold` seconds to come up.
    """
    missing = {
        instance.id: previous.missing.get(instance.id, now)
        for instance in _vanished(previous.instances, view.instances)
    }
    evident = is_evident(view, len(missing), patience)
    plausible = is_plausible(view, len(missing), patience)
    ended: Mapping[str, str] = {
        name: why
        for name, since in missing.items()
        if (why := _end(heard.get(name, _SILENT), since, now, evident, plausible, patience))
    }
    if not evident and not view.instances and len(ended) == len(missing):
        ended = {}  # an empty set that nobody has verified
    ended = _spare_the_last(previous.instances, view, missing, ended, heard, now, patience)
    held = [each for each in previous.instances if each.id in missing and each.id not in ended]
    if view.shows_usable or _speakers(held, heard, now, patience):
        held = [_as_heard(each, heard.get(each.id, _SILENT)) for each in held]
    early = view.shows_last and view.complete
    waited = evident and now >= previous.since + patience.hold
    return RetentionState(
        since=previous.since,
        instances=tuple(sorted((*view.instances, *held), key=lambda instance: instance.id)),
        missing={instance.id: missing[instance.id] for instance in held},
        settled=previous.settled or early or waited,
        dropped=ended,
    )


def _spare_the_last(
    before: tuple[Instance, ...],
    view: CatalogView,
    missing: Mapping[str, float],
    ended: Mapping[str, str],
    heard: Testimonies,
    now: float,
    patience: RetentionRules,
) -> Mapping[str, str]:
    """Those to drop, without those that say they serve if no other instance is usable."""
    absent = [each for each in before if each.id in missing]
    if view.shows_usable or any(each.usable and each.id not in ended for each in absent):
        return ended
    spared = _speakers(absent, heard, now, patience)
    return {name: why for name, why in ended.items() if name not in spared}


def _as_heard(instance: Instance, said: SelfReport) -> Instance:
    """One that is held beside others who can be used: it is not, unless it says that it serves."""
    answered = said.alive is not None or said.gone or said.silent
    return replace(instance, silent=said.gone or said.silent) if answered else instance


def _speakers(
    missing: Iterable[Instance], heard: Testimonies, now: float, patience: RetentionRules
) -> set[str]:
    """Those who could be used, and have said of late that they serve."""
    found = {each.id: heard.get(each.id, _SILENT) for each in missing if each.usable_last}
    return {
        name
        for name, said in found.items()
        if said.alive is not None and not said.gone and now < said.alive + patience.hold
    }


def is_evident(view: CatalogView, missing: int, patience: RetentionRules) -> bool:
    """Whether a view in which so many are missing is evidence that they are gone."""
    return view.verified or (is_plausible(view, missing, patience) and not view.doubtful)


def is_plausible(view: CatalogView, missing: int, patience: RetentionRules) -> bool:
    """Whether a view in which so many are missing bears out those who say that they are gone."""
    sudden = missing > patience.share * (missing + len(view.instances))
    return view.verified or (view.shows_usable and not sudden)


def _end(
    said: SelfReport,
    since: float,
    now: float,
    evident: bool,
    plausible: bool,
    patience: RetentionRules,
) -> str | None:
    """Why it is not held any more, or None if it is."""
    if said.gone and plausible:
        return "it reports so itself"
    if not evident:
        # Whether or not Consul is right, somebody has said so for long enough.
        return "it reports so itself" if said.gone and now >= since + patience.longest else None
    if now < _deadline(said, since, patience):
        return None
    return "it did not register again" if said.alive else "it did not answer"


def _deadline(said: SelfReport, since: float, patience: RetentionRules) -> float:
    if said.asked == math.inf:
        return said.asked
    heard = max(since, said.asked, -math.inf if said.alive is None else said.alive)
    # One that was missing for long before our time is heard in ours before it is dropped.
    longest = max(since + patience.longest, said.asked + patience.hold)
    return min(heard + patience.hold, longest)


def next_deadline(
    memory: RetentionState, heard: Testimonies, now: float, patience: RetentionRules
) -> float | None:
    """When (monotonic seconds) to look again although nothing has changed."""
    waiting = [memory.since + patience.hold] if not memory.settled else []
    for name, since in memory.missing.items():
        said = heard.get(name, _SILENT)
        waiting += [_deadline(said, since, patience), since + patience.longest]
        waiting += [] if said.alive is None else [said.alive + patience.hold]
    # What has passed, and who was not asked, waits for another view, or another word.
    return min((at for at in waiting if now < at < math.inf), default=None)


def wants_verification(
    memory: RetentionState, view: CatalogView, now: float, patience: RetentionRules
) -> bool:
    """Whether the catalog has to prove what it shows.

    An entry of which nothing can be learnt is there: that nobody else is usable proves nothing.
    """
    doubted = bool(memory.missing) or (not memory.settled and now >= memory.since + patience.hold)
    provable = view.complete or view.shows_usable
    return doubted and provable and not is_evident(view, len(memory.missing), patience)


def _vanished(before: tuple[Instance, ...], observed: tuple[Instance, ...]) -> tuple[Instance, ...]:
    """Those that went without a word; who was handing over served still.

    One whose address was taken over, or that of its sidecar, has been renamed or moved: another one
    would answer for it.
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
