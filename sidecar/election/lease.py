"""The own claim on the role: what it becomes by what is done and seen, and what it allows. Pure."""

from dataclasses import dataclass, replace
from enum import StrEnum

from sidecar.election.keys.lock import ElectionLock

# Renew after this share of the TTL, so that two renewals may fail before the lease is in doubt.
_RENEW_AFTER = 1 / 3


class Role(StrEnum):
    """What this instance may call itself.

    PROMOTING: it holds the lock, and loads its models before it serves. UNCONFIRMED: it held the
    lock, but could not renew for so long that Consul may have given the lock away, or has asked
    Consul to. It does not claim the epoch any more; traffic is not touched.
    """

    STANDBY = "standby"
    PROMOTING = "promoting"
    PRIMARY = "primary"
    UNCONFIRMED = "primary (unconfirmed)"


@dataclass(frozen=True, slots=True)
class Offer:
    """Why the lock is being given back, and to whom; "" for the instance that takes it."""

    why: str
    to: str


@dataclass(frozen=True, slots=True)
class Lease:
    """The own claim. Times are seconds on the monotonic clock.

    `confirmed` is when the last successful request for the session was *sent*: Consul's own
    count of the TTL cannot have begun earlier. `attempted` is when the last one was sent at all.
    A session that has held the lock and lost it is `spent`: another one is opened, so that no
    reading from before can be taken for one from after. `offer` is set before the lock is given
    back, since somebody else may have it before the answer is here.
    """

    ttl: float
    session: str | None = None
    confirmed: float = 0.0
    epoch: int = 0
    attempted: float = 0.0
    spent: bool = False
    offer: Offer | None = None

    @property
    def end(self) -> float:
        """When the claim ends without another renewal: Consul waits for at least one TTL.

        Source: Consul's documentation of sessions; it may take up to twice the TTL.
        """
        return self.confirmed + self.ttl

    @property
    def renewal(self) -> float:
        """When to renew."""
        return self.confirmed + self.ttl * _RENEW_AFTER

    def slept(self, now: float) -> bool:
        """Whether a TTL went by without even an attempt: the process or machine stood still."""
        return now >= max(self.confirmed, self.attempted) + self.ttl


def opened(lease: Lease, session: str, sent: float) -> Lease:
    """After a session was created."""
    return Lease(lease.ttl, session, confirmed=sent, attempted=sent)


def attempted(lease: Lease, sent: float) -> Lease:
    """When the session is about to be renewed."""
    return replace(lease, attempted=sent)


def renewed(lease: Lease, sent: float) -> Lease:
    """After the session was renewed."""
    return replace(lease, confirmed=max(lease.confirmed, sent))


def acquired(lease: Lease, epoch: int) -> Lease:
    """After the lock was acquired."""
    return replace(lease, epoch=epoch)


def offered(lease: Lease, why: str, to: str) -> Lease:
    """When the lock is about to be released."""
    return replace(lease, offer=Offer(why, to))


def released(lease: Lease) -> Lease:
    """After the lock was released."""
    return replace(lease, epoch=0, spent=True, offer=None)


def lost(lease: Lease) -> Lease:
    """After the session turned out to be gone, or was closed."""
    return Lease(lease.ttl)


def observe(lease: Lease, lock: ElectionLock, instance: str, now: float) -> Lease:
    """After the lock was read.

    It may be its own session's although the answer that said so was lost, or somebody else's. A
    reading from before its own acquisition (`index` below the epoch) says nothing; nor, of a claim
    that has ended by its own clock, one that was read before it ended.
    """
    if lease.session is None or lease.spent or lock.index < lease.epoch:
        return lease
    if lock.session == lease.session:
        alive = bool(lease.epoch) or now < lease.end
        return acquired(lease, lock.epoch) if alive and lock.instance == instance else lease
    return released(lease) if lease.epoch else lease


def after_stall(lease: Lease, now: float) -> Lease:
    """Who slept for a TTL begins as a follower; if the lock is its own still, it will be seen."""
    return replace(lease, epoch=0) if lease.epoch and lease.slept(now) else lease


def role(lease: Lease, now: float, *, promoting: bool = False) -> Role:
    """The role that the lease supports at this moment, by its own clock alone."""
    if not lease.epoch or lease.slept(now):
        return Role.STANDBY
    if now >= lease.end or lease.offer:
        return Role.UNCONFIRMED
    return Role.PROMOTING if promoting else Role.PRIMARY


def remaining(lease: Lease, now: float) -> float | None:
    """Seconds for which the claim stands without another renewal; None if there is no claim."""
    left = lease.end - now
    return left if lease.epoch and left > 0 else None
