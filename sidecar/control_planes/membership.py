"""The control planes that a caller waits for, while they come and go. Pure.

A list that the token may only see in part looks like a shorter list. So a control plane that is
missing from it has left only if we would provably see it, and counts for as long as it streams.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from sidecar.consul.api import ServiceEntry

T = TypeVar("T")

# Seconds for which a control plane that left the catalog is waited for while it is silent. Above
# the 5 s after which it notices that its agent lost its entry (xds/self_registration.py), and the
# 8 s for which its successor counts Envoys that may reconnect (xds/envoys/connections.py).
GRACE = 10.0

# Id, address and port. Another address is another process, so reports do not carry over.
PlaneKey = tuple[str, str, int]
NOT_LISTED_YET = "Consul has not answered yet"


@dataclass(frozen=True, slots=True)
class Listing:
    """The control planes that Consul shows; `incomplete` says why there may be others, if so."""

    planes: tuple[ServiceEntry, ...] = ()
    incomplete: str = ""


@dataclass(frozen=True, slots=True)
class Member(Generic[T]):
    """One control plane: its last report, and whether its stream is open.

    `left_at` (monotonic seconds) is when it vanished from the catalog; None while it is listed.
    """

    entry: ServiceEntry
    report: T | None = None
    connected: bool = False
    left_at: float | None = None


@dataclass(frozen=True, slots=True)
class PlaneReports(Generic[T]):
    """The last report of each control plane; None for one that has not reported yet.

    `departed` holds the reports of those that have left. While `incomplete` gives a reason, there
    may be others whose reports are missing.
    """

    reports: tuple[T | None, ...] = ()
    departed: tuple[T | None, ...] = ()
    incomplete: str = NOT_LISTED_YET


@dataclass(frozen=True, slots=True)
class Membership(Generic[T]):
    """All control planes ever listed, and why the newest list may be incomplete."""

    members: Mapping[PlaneKey, Member[T]] = field(default_factory=dict)
    incomplete: str = NOT_LISTED_YET

    def listed(self, listing: Listing, now: float) -> "Membership[T]":
        """Apply a new list. An incomplete one removes no control plane."""
        shown = {plane_key(entry): entry for entry in listing.planes}
        members = {
            key: replace(member, left_at=_left_at(member, key in shown, listing, now))
            for key, member in self.members.items()
        }
        joined: dict[PlaneKey, Member[T]] = {
            key: Member(entry) for key, entry in shown.items() if key not in members
        }
        return Membership({**members, **joined}, listing.incomplete)

    def listing_failed(self, why: str) -> "Membership[T]":
        """There is no new list, for this reason."""
        return replace(self, incomplete=why)

    def reported(self, key: PlaneKey, report: T) -> "Membership[T]":
        """A control plane has reported."""
        return self._with(key, replace(self.members[key], report=report, connected=True))

    def disconnected(self, key: PlaneKey) -> "Membership[T]":
        """A control plane's stream has ended. Its last report stands."""
        return self._with(key, replace(self.members[key], connected=False))

    def reports(self, now: float) -> PlaneReports[T]:
        """The reports that count at the time `now` (monotonic seconds), and the departed ones."""
        present = tuple(each.report for each in self.members.values() if _counts(each, now))
        departed = tuple(each.report for each in self.members.values() if not _counts(each, now))
        return PlaneReports(present, departed, self.incomplete)

    def _with(self, key: PlaneKey, member: Member[T]) -> "Membership[T]":
        return replace(self, members={**self.members, key: member})


def plane_key(entry: ServiceEntry) -> PlaneKey:
    """What distinguishes one control plane from another."""
    return entry.id, entry.address, entry.port


def _left_at(member: Member[T], shown: bool, listing: Listing, now: float) -> float | None:
    if shown:
        return None
    return member.left_at if listing.incomplete or member.left_at is not None else now


def _counts(member: Member[T], now: float) -> bool:
    return member.connected or member.left_at is None or now < member.left_at + GRACE
