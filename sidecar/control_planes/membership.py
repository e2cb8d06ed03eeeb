"""Who of the control planes is waited for, while they come and go.

A list that somebody may not see as a whole looks like a shorter one. So who is not on it has left
only if it is proven that we would see it, and stays for as long as it speaks to us itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from sidecar.consul.api import ServiceEntry

T = TypeVar("T")

# Seconds for which one that left the catalog is waited for, though it says nothing. Above the 5 s
# after which a control plane notices that its agent has lost its entry (xds/registration.py), and
# the 8 s for which the next one counts with Envoys that are on their way (xds/envoys.py).
AWAY = 10.0

# One at another address is another process: what the first has said is none of its words.
Name = tuple[str, str, int]
NOT_ASKED = "Consul has not answered yet"


@dataclass(frozen=True, slots=True)
class Listing:
    """The control planes that Consul shows; `doubt` says why there may be others, if so."""

    planes: tuple[ServiceEntry, ...] = ()
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Member(Generic[T]):
    """One control plane: its last word, and whether its stream is open.

    `left_at` (monotonic seconds) is since when the catalog does not show it; None while it does.
    """

    entry: ServiceEntry
    word: T | None = None
    speaking: bool = False
    left_at: float | None = None


@dataclass(frozen=True, slots=True)
class Heard(Generic[T]):
    """The last word of each control plane, None of one that has said nothing yet.

    `left` are those of the ones that are not there any more. While there is a `doubt` there may be
    others, whose words are missing.
    """

    words: tuple[T | None, ...] = ()
    left: tuple[T | None, ...] = ()
    doubt: str = NOT_ASKED


@dataclass(frozen=True, slots=True)
class Membership(Generic[T]):
    """All that were ever listed, and the doubt about the newest list."""

    members: Mapping[Name, Member[T]] = field(default_factory=dict)
    doubt: str = NOT_ASKED

    def listed(self, listing: Listing, now: float) -> "Membership[T]":
        """As a new list shows it. One with a doubt about it removes nobody."""
        shown = {name_of(entry): entry for entry in listing.planes}
        members = {
            name: replace(member, left_at=_left(member, name in shown, listing, now))
            for name, member in self.members.items()
        }
        joined: dict[Name, Member[T]] = {
            name: Member(entry) for name, entry in shown.items() if name not in members
        }
        return Membership({**members, **joined}, listing.doubt)

    def doubted(self, why: str) -> "Membership[T]":
        """There is no new list, for a reason."""
        return replace(self, doubt=why)

    def said(self, name: Name, word: T) -> "Membership[T]":
        """One has said something."""
        return self._with(name, replace(self.members[name], word=word, speaking=True))

    def silent(self, name: Name) -> "Membership[T]":
        """The stream of one has ended. Its last word stands."""
        return self._with(name, replace(self.members[name], speaking=False))

    def heard(self, now: float) -> Heard[T]:
        """What there is to go by."""
        there = tuple(each.word for each in self.members.values() if _counts(each, now))
        left = tuple(each.word for each in self.members.values() if not _counts(each, now))
        return Heard(there, left, self.doubt)

    def _with(self, name: Name, member: Member[T]) -> "Membership[T]":
        return replace(self, members={**self.members, name: member})


def name_of(entry: ServiceEntry) -> Name:
    """What tells one control plane from another."""
    return entry.id, entry.address, entry.port


def _left(member: Member[T], shown: bool, listing: Listing, now: float) -> float | None:
    if shown:
        return None
    return member.left_at if listing.doubt or member.left_at is not None else now


def _counts(member: Member[T], now: float) -> bool:
    return member.speaking or member.left_at is None or now < member.left_at + AWAY
