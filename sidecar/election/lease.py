"""This instance's claim on the role: how it changes, and what it allows. Pure."""

from dataclasses import dataclass, replace
from enum import StrEnum

from sidecar.election.keys.lock import ElectionLock

# Renew after this share of the TTL, so that two renewals may fail before the lease is in doubt.
_RENEW_AFTER = 1 / 3


class Role(StrEnum):
    """The role that this instance may claim.

    PROMOTING: it holds the lock, and loads its models before it serves. UNCONFIRMED: it held the
    lock, but failed to renew for so long that Consul may have given it away, or its release is
    unanswered. It no longer claims the epoch; traffic is not touched.
    """

    STANDBY = "standby"
    PROMOTING = "promoting"
    PRIMARY = "primary"
    UNCONFIRMED = "primary (unconfirmed)"


@dataclass(frozen=True, slots=True)
class Offer:
    """Why the lock is being released, and to which instance; "" for whichever takes it."""

    why: str
    to: str


@dataclass(frozen=True, slots=True)
class Lease:
    """This instance's claim. Times are seconds on the monotonic clock.

    `confirmed` is when the last successful request for the session was *sent*: Consul cannot have
    started to count the TTL earlier. `attempted` is when the last request was sent at all. A
    session that has held and lost the lock is `spent`: a new one is opened, so that no earlier
    reading of the lock can pass for a later one. `offer` is set before the lock is released,
    because another instance may take it before the answer arrives.
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
        """When the claim ends without another renewal: Consul waits at least one TTL.

        Source: Consul's documentation on sessions; it may take up to twice the TTL.
        """
        return self.confirmed + self.ttl

    @property
    def renewal(self) -> float:
        """When to renew."""
        return self.confirmed + self.ttl * _RENEW_AFTER

    def slept(self, now: float) -> bool:
        """Whether a TTL passed without even an attempt: the process or machine was suspended."""
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

    Its own session may hold it although the answer to the acquisition was lost, or another may. A
    reading from before its own acquisition (`index` below the epoch) says nothing; neither does one
    from before a claim's end, once that claim has ended by its own clock.
    """
    if lease.session is None or lease.spent or lock.index < lease.epoch:
        return lease
    if lock.session == lease.session:
        alive = bool(lease.epoch) or now < lease.end
        return acquired(lease, lock.epoch) if alive and lock.instance == instance else lease
    return released(lease) if lease.epoch else lease


def after_stall(lease: Lease, now: float) -> Lease:
    """After a stall of a TTL it is a standby again, until it reads that it still holds the lock."""
    return replace(lease, epoch=0) if lease.epoch and lease.slept(now) else lease


def role(lease: Lease, now: float, *, promoting: bool = False) -> Role:
    """The role that the lease supports now, by this instance's clock alone."""
    if not lease.epoch or lease.slept(now):
        return Role.STANDBY
    if now >= lease.end or lease.offer:
        return Role.UNCONFIRMED
    return Role.PROMOTING if promoting else Role.PRIMARY


def remaining(lease: Lease, now: float) -> float | None:
    """Seconds until the claim ends without another renewal; None if there is no claim."""
    left = lease.end - now
    return left if lease.epoch and left > 0 else None
