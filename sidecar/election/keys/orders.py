"""Orders that move the role, and the pause of automation: keys in Consul's KV. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from sidecar.consul.api import KVEntry
from sidecar.election.keys import lock
from sidecar.election.keys.lock import ElectionLock, Ended


class Kind(StrEnum):
    """Why the role is to move.

    SWITCHOVER: from a healthy primary. FAILOVER: from an unhealthy one, or by force. FAILBACK:
    ordered by an instance with a higher priority. STOP: ordered by a primary that is stopping.
    """

    SWITCHOVER = "switchover"
    FAILOVER = "failover"
    FAILBACK = "failback"
    STOP = "stop"


# Seconds after its time in which an order can be carried out; then it lapses.
_WINDOWS = {Kind.STOP: 15.0}
_WINDOW = 60.0
# Seconds after its time in which an order's candidate may settle before it proves itself: longer
# than the default `settle`. A candidate that needs more is refused, rather than waited for.
_SETTLING = {Kind.STOP: 5.5, Kind.FAILOVER: 0.0}
_SETTLE = 10.0
# Seconds that a stopping primary waits for a candidate, including its proof.
HAND_OVER = 7.0


@dataclass(frozen=True, slots=True)
class Order:
    """An order to move the role, at a time (Unix seconds), to an instance or to the best one.

    With `force` the candidate need not prove itself. `index` is the key's ModifyIndex.
    """

    id: str
    kind: Kind
    at: float
    by: str
    to: str | None = None
    reason: str = ""
    force: bool = False
    index: int = field(default=0, compare=False)

    @property
    def until(self) -> float:
        """When (Unix seconds) it is too late to carry it out."""
        return self.at + _WINDOWS.get(self.kind, _WINDOW)

    @property
    def settled_by(self) -> float:
        """Until when (Unix seconds) its candidate may settle."""
        return self.at + _SETTLING.get(self.kind, _SETTLE)

    def due(self, wall: float) -> bool:
        """Whether it can be carried out now (Unix seconds)."""
        return self.at <= wall < self.until

    @property
    def sentence(self) -> str:
        """The order's text in the history.

        Earlier versions recognize a tenure that ended for an order by this text, so it must not
        change while they may run alongside.
        """
        return f"{self.kind} by {self.by}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True)
class Proof:
    """The answer of an order's candidate after it ran its canaries; `why` if it is not fit."""

    order: str
    instance: str
    fit: bool
    why: str
    at: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of the last order: done, or why it failed."""

    order: str
    done: bool
    why: str
    at: float


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause of automation, until a time (Unix seconds) or until it is resumed."""

    since: float
    by: str
    reason: str = ""
    until: float | None = None
    index: int = field(default=0, compare=False)

    def active(self, wall: float) -> bool:
        """Whether it is in force now (Unix seconds)."""
        return self.until is None or wall < self.until


@dataclass(frozen=True, slots=True)
class ElectionState:
    """The content of all of an election's keys.

    `order_index` is the ModifyIndex of the order's key, readable or not, 0 if there is none;
    `garbage` names the keys that cannot be read.
    """

    lock: ElectionLock
    order: Order | None = None
    proof: Proof | None = None
    outcome: Outcome | None = None
    pause: Pause | None = None
    garbage: tuple[str, ...] = ()
    order_index: int = 0

    def paused(self, wall: float) -> bool:
        """Whether automation is off."""
        return self.pause is not None and self.pause.active(wall)

    def due(self, wall: float) -> Order | None:
        """The order to carry out now: its time has come, or it is half done."""
        order = self.order
        return order if order and (order.due(wall) or self._released_for(order)) else None

    def _released_for(self, order: Order) -> bool:
        """Whether the lock was released for an order, which is then due whatever the clocks say."""
        ended = self.lock.last.ended if self.lock.session is None and self.lock.last else None
        return ended is not None and ended_for(ended, order)

    def proof_of(self, order: Order) -> Proof | None:
        """The proof by an order's candidate, if there is one."""
        known = self.proof
        return known if known and (known.order, known.instance) == (order.id, order.to) else None


def ended_for(ended: Ended, order: Order) -> bool:
    """Whether a tenure ended for an order, in favour of its candidate."""
    if ended.order is None:
        return (ended.to, ended.why) == (order.to, order.sentence)
    return (ended.to, ended.order) == (order.to, order.id)


def order_key(service: str) -> str:
    """The key of the pending order."""
    return lock.prefix(service) + "order"


def proof_key(service: str) -> str:
    """The key of the candidate's answer to the order."""
    return lock.prefix(service) + "proof"


def outcome_key(service: str) -> str:
    """The key of the last order's outcome."""
    return lock.prefix(service) + "outcome"


def pause_key(service: str) -> str:
    """The key of the pause."""
    return lock.prefix(service) + "pause"


def read(service: str, entries: Iterable[KVEntry], index: int) -> ElectionState:
    """The election's state according to the KV entries of one answer; `index` orders readings."""
    found = {entry.key: entry for entry in entries}
    garbage: list[str] = []

    def value(kind: type[lock.T], key: str) -> lock.T | None:
        if key not in found:
            return None
        if (read := lock.loads(kind, found[key].value)) is None:
            garbage.append(key)
        return read

    order, pause = value(Order, order_key(service)), value(Pause, pause_key(service))
    return ElectionState(
        lock=lock.read(service, found.values(), index),
        order=order and replace(order, index=found[order_key(service)].modify_index),
        proof=value(Proof, proof_key(service)),
        outcome=value(Outcome, outcome_key(service)),
        pause=pause and replace(pause, index=found[pause_key(service)].modify_index),
        garbage=tuple(garbage),
        order_index=found[key].modify_index if (key := order_key(service)) in found else 0,
    )
