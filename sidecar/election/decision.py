"""Who is primary: what to do next about the lease on that role. Pure.

One lock per service in Consul, held through a session that is bound to the instance's own checks.
`decide` takes what is seen of the lock, the own lease and the time, and returns the next action;
the loop performs it and reports back through the functions that return a new `Lease`. There is no
preemption: a lock that somebody holds is left alone.
"""

from dataclasses import dataclass, replace
from enum import Enum, StrEnum

# Renew after this share of the TTL, so that two renewals may fail before the lease is in doubt.
_RENEW_AFTER = 1 / 3


class Role(StrEnum):
    """What this instance may call itself.

    UNCONFIRMED: it held the lock, but could not renew for so long that Consul may have given the
    lock away. It does not claim the epoch any more; traffic is not touched.
    """

    STANDBY = "standby"
    PRIMARY = "primary"
    UNCONFIRMED = "primary (unconfirmed)"


class Action(Enum):
    """The next thing to do; at most one at a time, for each can fail."""

    OPEN_SESSION = "open a session"
    RENEW_SESSION = "renew the session"
    ACQUIRE = "acquire the lock"
    RELEASE = "release the lock"
    CLOSE_SESSION = "close the session"


@dataclass(frozen=True, slots=True)
class Lock:
    """The lock and its epoch as last read from Consul; `index` orders the readings."""

    session: str | None = None
    instance: str | None = None
    epoch: int = 0
    index: int = 0


class Intent(Enum):
    """What the instance wants with the role."""

    SEEK = "take it if it is free, and keep it"  # Consul has confirmed a passing verdict
    KEEP = "keep it, but do not take it"  # withdrawn, with work in flight
    YIELD = "give it up"  # unfit, or done


@dataclass(frozen=True, slots=True)
class View:
    """What the decision is made on; `lock` is None until it was read once."""

    lock: Lock | None
    intent: Intent


@dataclass(frozen=True, slots=True)
class Lease:
    """The own claim. Times are seconds on the monotonic clock.

    `confirmed` is when the last successful request for the session was *sent*: Consul's own
    count of the TTL cannot have begun earlier.
    """

    ttl: float
    session: str | None = None
    confirmed: float = 0.0
    epoch: int = 0

    def expired(self, now: float) -> bool:
        """Whether Consul may have ended the session: it does so at the earliest after one TTL.

        Source: Consul's documentation of sessions; it may take up to twice the TTL.
        """
        return now >= self.confirmed + self.ttl


def opened(lease: Lease, session: str, sent: float) -> Lease:
    """After a session was created."""
    return replace(lease, session=session, confirmed=sent, epoch=0)


def renewed(lease: Lease, sent: float) -> Lease:
    """After the session was renewed."""
    return replace(lease, confirmed=max(lease.confirmed, sent))


def acquired(lease: Lease, epoch: int) -> Lease:
    """After the lock was acquired."""
    return replace(lease, epoch=epoch)


def released(lease: Lease) -> Lease:
    """After the lock was released."""
    return replace(lease, epoch=0)


def lost(lease: Lease) -> Lease:
    """After the session turned out to be gone, or was closed."""
    return Lease(lease.ttl)


def observe(lease: Lease, lock: Lock) -> Lease:
    """After the lock was read: it may say that somebody else has it.

    A reading from before the own acquisition (`index` below the epoch) says nothing.
    """
    if lease.epoch and lock.session != lease.session and lock.index >= lease.epoch:
        return released(lease)
    return lease


def role(lease: Lease, now: float) -> Role:
    """The role that the lease supports at this moment, by the own clock alone."""
    if not lease.epoch:
        return Role.STANDBY
    return Role.UNCONFIRMED if lease.expired(now) else Role.PRIMARY


def decide(view: View, lease: Lease, now: float) -> Action | None:
    """The next action, or None if there is nothing to do."""
    keeps = view.intent is Intent.SEEK or (view.intent is Intent.KEEP and lease.epoch)
    if not keeps:
        return _give_up(lease)
    if lease.session is None:
        return Action.OPEN_SESSION
    if now >= _renewal(lease):
        return Action.RENEW_SESSION
    return Action.ACQUIRE if _obtainable(view.lock, lease) else None


def remaining(lease: Lease, now: float) -> float | None:
    """Seconds for which the claim stands without another renewal; None if there is no claim."""
    left = lease.confirmed + lease.ttl - now
    return left if lease.epoch and left > 0 else None


def wake_at(lease: Lease, now: float) -> float | None:
    """When to decide again if nothing else happens: the next renewal, or the own step-down."""
    if lease.session is None:
        return None
    return next((at for at in (_renewal(lease), lease.confirmed + lease.ttl) if at > now), None)


def _obtainable(lock: Lock | None, lease: Lease) -> bool:
    """Whether to take the lock.

    It is free; or it is the own session's already and the answer that said so was lost, or
    somebody has edited the epoch key since. Acquiring it again is harmless.
    """
    if lock is None or (lease.epoch and lock.index < lease.epoch):
        return False
    if lock.session is None:
        return not lease.epoch
    return lock.session == lease.session and (not lease.epoch or lock.instance is None)


def _renewal(lease: Lease) -> float:
    return lease.confirmed + lease.ttl * _RENEW_AFTER


def _give_up(lease: Lease) -> Action | None:
    if lease.session is None:
        return None
    # Released first: a release, unlike the end of a session, starts no lock-delay.
    return Action.RELEASE if lease.epoch else Action.CLOSE_SESSION
