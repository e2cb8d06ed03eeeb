"""The keys of drills in Consul's KV, and what their values mean. Pure.

`order` is locked by the session of the drill that runs, so there is one at a time; the fault lasts
only as long as the lock is held. Each sidecar answers in a key of its own. Earlier versions do not
know these keys, and ignore them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from sidecar.consul.api import KVEntry
from sidecar.election.keys import lock

# `injecting`: the fault will be caused. `injected`: it was; a sidecar that hits itself says so just
# before, and one of an earlier version not at all.
Said = Literal["injecting", "injected", "refused", "restored"]
BEGUN = frozenset({"injecting", "injected"})


@dataclass(frozen=True, slots=True)
class Order:
    """A drill: its id, who holds it and since when (Unix seconds), and the present order.

    `fault` is to be caused to `victim` for at most `seconds`; with "" nothing is to be caused, or
    no longer: the drill prepares, or restores. It is a text, because a newer version may know more
    faults than this one. `index` is the key's ModifyIndex.
    """

    id: str
    by: str
    since: float
    scenario: str
    victim: str
    fault: str = ""
    seconds: float = 0.0
    index: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the victim's sidecar did about the order with this id, at a time (Unix seconds).

    For `injected` that is when it caused the fault.

    `code` is a `rules.Code` if it was refused or restored, `why` is for people. `seconds` is how
    long the fault may last, which is the shorter of the order's and the sidecar's time. `fault` is
    what was injected.
    """

    order: str
    instance: str
    said: Said
    at: float
    code: str = ""
    why: str = ""
    seconds: float = 0.0
    fault: str = ""


@dataclass(frozen=True, slots=True)
class LastDrill:
    """The last drill that went to its end, `began` and `ended` (Unix seconds)."""

    id: str
    scenario: str
    victim: str
    by: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class DrillKeys:
    """The content of a service's keys; `session` holds the lock on the order."""

    order: Order | None = None
    session: str | None = None
    answers: tuple[Answer, ...] = ()
    last: LastDrill | None = None

    @property
    def running(self) -> Order | None:
        """The drill that holds the lock."""
        return self.order if self.session else None

    def answer_of(self, instance: str, order: str) -> Answer | None:
        """What an instance's sidecar answered to an order."""
        found = (each for each in self.answers if (each.instance, each.order) == (instance, order))
        return next(found, None)

    def newest_of(self, instance: str) -> Answer | None:
        """What an instance's sidecar answered last, to any order."""
        return next((each for each in self.answers if each.instance == instance), None)


def prefix(service: str) -> str:
    """The folder of a service's drills."""
    return f"triton-sidecar/{service}/drill/"


def order_key(service: str) -> str:
    """The key that a drill's session locks."""
    return prefix(service) + "order"


def last_key(service: str) -> str:
    """The key with the last drill that went to its end."""
    return prefix(service) + "last"


def answers_prefix(service: str) -> str:
    """The folder of the sidecars' answers."""
    return prefix(service) + "answer/"


def answer_key(service: str, instance: str) -> str:
    """The key of an instance's answer."""
    return answers_prefix(service) + instance


def read(service: str, entries: Iterable[KVEntry]) -> DrillKeys:
    """What the KV entries of one answer say; an unreadable value counts as none."""
    found = {entry.key: entry for entry in entries}
    entry, last = found.get(order_key(service)), found.get(last_key(service))
    order = lock.loads(Order, entry.value) if entry else None
    start = answers_prefix(service)
    said = (lock.loads(Answer, each.value) for key, each in found.items() if key.startswith(start))
    return DrillKeys(
        order=replace(order, index=entry.modify_index) if entry and order else None,
        session=entry.session if entry else None,
        answers=tuple(answer for answer in said if answer),
        last=lock.loads(LastDrill, last.value) if last else None,
    )
