"""What to believe of what Consul shows: who leads, and which absence means that one is gone.

Consul can be wrong in ways that must not move traffic: an agent restarted and its services are not
registered again yet, somebody deleted an entry, a token was revoked and the catalog looks empty,
a development agent forgot everything. Envoy checks the endpoints by itself meanwhile, so holding
on to an instance that was healthy costs little; dropping one that is healthy costs requests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.election.lock import Lock
from sidecar.xds.catalog import Instance, Leader, ServiceCatalog


@dataclass(frozen=True, slots=True)
class Leadership:
    """The leader believed last, and the newest epoch seen."""

    leader: Leader | None = None
    newest_epoch: int = 0


def is_regression(previous: Leadership, lock: Lock) -> bool:
    """Whether only a `consistent` read can tell if the store lost its history."""
    return lock.instance is not None and lock.epoch < previous.newest_epoch


def believe_leader(previous: Leadership, lock: Lock, *, verified: bool = False) -> Leadership:
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
class View:
    """What a look at the catalog showed.

    `complete` is False if there are more instances, of which nothing could be learnt, and
    `verified` True if a read that can be trusted has shown the same.
    """

    instances: tuple[Instance, ...] = ()
    complete: bool = True
    verified: bool = False

    @property
    def shows_usable(self) -> bool:
        """Whether any instance may be given new requests."""
        return any(instance.usable for instance in self.instances)


@dataclass(frozen=True, slots=True)
class Memory:
    """The instances believed in, and since when (monotonic seconds) some are not seen any more.

    `since` is when the service was first looked at; `settled` as in `ServiceCatalog`.
    """

    since: float
    instances: tuple[Instance, ...] = ()
    missing: Mapping[str, float] = field(default_factory=dict)
    settled: bool = False

    def catalog(self, name: str, leader: Leader | None) -> ServiceCatalog:
        """The service as it is to be published."""
        return ServiceCatalog(name, self.instances, leader, self.settled)


def retain(previous: Memory, view: View, now: float, hold: float) -> Memory:
    """The memory after a look at the catalog.

    An instance that vanished without having been draining is held for `hold` seconds, one that
    said goodbye is believed at once. A view without a usable instance is no evidence until it is
    verified: it ends nobody's hold, or the last good instance would go because nobody sees it. A
    service is settled as soon as a complete view shows a usable instance, or when the others had
    `hold` seconds to come up.
    """
    missing = {
        instance.id: previous.missing.get(instance.id, now)
        for instance in _vanished(previous.instances, view.instances)
    }
    evident = view.verified or view.shows_usable
    kept = {name: since for name, since in missing.items() if not evident or now < since + hold}
    held = [instance for instance in previous.instances if instance.id in kept]
    early = view.shows_usable and view.complete
    return Memory(
        since=previous.since,
        instances=tuple(sorted((*view.instances, *held), key=lambda instance: instance.id)),
        missing=kept,
        settled=previous.settled or early or (evident and now >= previous.since + hold),
    )


def next_deadline(memory: Memory, hold: float) -> float | None:
    """When (monotonic seconds) to look again although nothing has changed.

    One that has passed means that only another view can help.
    """
    waiting = list(memory.missing.values())
    if not memory.settled:
        waiting.append(memory.since)
    return min(waiting) + hold if waiting else None


def wants_verification(memory: Memory, view: View, now: float, hold: float) -> bool:
    """Whether the catalog has shown nothing usable for so long that it has to prove it."""
    deadline = next_deadline(memory, hold)
    late = deadline is not None and now >= deadline
    return late and view.complete and not (view.verified or view.shows_usable)


def _vanished(before: tuple[Instance, ...], observed: tuple[Instance, ...]) -> tuple[Instance, ...]:
    """Those that went without a word. One whose address was taken over has been renamed."""
    ids = {instance.id for instance in observed}
    endpoints = {instance.endpoint for instance in observed}
    return tuple(
        instance
        for instance in before
        if instance.id not in ids and instance.endpoint not in endpoints and not instance.draining
    )
