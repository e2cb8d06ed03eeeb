"""The status of a service: its election and its instances in Consul at one moment. Pure."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sidecar.consul.api import Check, KVEntry, ServiceEntry
from sidecar.election import candidates, decision
from sidecar.election.candidates import Candidate
from sidecar.election.keys import orders
from sidecar.election.keys.orders import ElectionState, Order
from sidecar.injection.keys import Order as DrillOrder
from sidecar.registry import checks
from sidecar.registry.duplicate_entries import fold
from sidecar.registry.registration import DIFFERS_META, models_unusable

PRIMARY, PROMOTING, STANDBY = "primary", "promoting", "standby"


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The election's state, and the candidates with their catalog entries, sorted by id.

    `indexes` has the ModifyIndex of each of the election's keys, `reference` the digest of the
    model set that a primary must serve, or "" for any. `wall` is the moment in Unix seconds.
    `drill` is the one that runs now.
    """

    service: str
    state: ElectionState
    candidates: tuple[Candidate, ...]
    entries: tuple[ServiceEntry, ...]
    indexes: Mapping[str, int]
    reference: str
    wall: float
    drill: DrillOrder | None = None

    @property
    def primary(self) -> str | None:
        """The instance that holds the lock."""
        return self.state.lock.instance

    @property
    def known(self) -> bool:
        """Whether the service exists or existed: Consul has an instance or a key of it."""
        return bool(self.candidates or self.indexes)

    @property
    def others(self) -> tuple[Candidate, ...]:
        """All candidates but the lock's holder."""
        return tuple(each for each in self.candidates if each.id != self.primary)

    @property
    def pending(self) -> Order | None:
        """The order to carry out now or later."""
        order = self.state.order
        return order if order and self.wall < order.until else None

    @property
    def ranking(self) -> tuple[Candidate, ...]:
        """The candidates that could replace the holder, best first."""
        return candidates.preference(self.others, self.reference, self.wall)

    def find(self, instance: str) -> Candidate | None:
        """The candidate with this id."""
        return next((each for each in self.candidates if each.id == instance), None)

    def index(self, key: str) -> int:
        """The key's ModifyIndex, 0 if it does not exist."""
        return self.indexes.get(key, 0)

    def objections(self, candidate: Candidate) -> tuple[str, ...]:
        """Why a candidate may not take the role; none if it is fit."""
        return candidates.objections(candidate, self.reference)

    def settling(self, candidate: Candidate) -> float:
        """Seconds that a fit candidate must still settle, 0 for none."""
        waits = candidate.id != self.primary and not self.objections(candidate)
        return round(candidate.settling(self.wall), 1) if waits else 0.0


def read(
    service: str,
    entries: Iterable[ServiceEntry],
    keys: Iterable[KVEntry],
    index: int,
    wall: float,
    declared: str,
) -> ServiceStatus:
    """The status according to the catalog and the election's keys.

    Args:
        service: the service's name.
        entries: its instances in the catalog.
        keys: the KV entries below the election's prefix.
        index: the index of the answer with the keys.
        wall: now, in Unix seconds.
        declared: the digest of the declared model set, or "".
    """
    catalog, known = fold(entries), tuple(keys)
    state, found = orders.read(service, known, index), candidates.read(catalog)
    last = state.lock.last
    return ServiceStatus(
        service=service,
        state=state,
        candidates=found,
        entries=catalog,
        indexes={entry.key: entry.modify_index for entry in known},
        reference=candidates.reference(declared, last.model_set if last else "", found),
        wall=wall,
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One instance as `list` shows it.

    `reason` is the first line of its worst check, if that does not pass. `objections` say why it
    could not become primary, `settling_seconds` how long it must still pass before it takes the
    role, `differs` how its model set differs, and `failback` whether the role should return to it.
    `unusable` are the models that it may not serve although it serves others, with the codes of the
    reasons.
    """

    id: str
    address: str
    verdict: str
    reason: str
    role: str
    priority: int
    standby: str
    model_set: str
    differs: str
    nofailover: bool
    maintenance: bool
    objections: tuple[str, ...]
    settling_seconds: float
    failback: bool
    unusable: Mapping[str, str]


def rows(seen: ServiceStatus) -> tuple[Row, ...]:
    """Every instance, sorted by id."""
    return tuple(_row(seen, each) for each in seen.candidates)


def _row(seen: ServiceStatus, own: Candidate) -> Row:
    entry = next(each for each in seen.entries if each.id == own.id)
    holds = own.id == seen.primary
    return Row(
        id=own.id,
        address=f"{entry.address}:{entry.port}",
        verdict="maintenance" if own.maintenance else own.state,
        reason=_reason(entry),
        role=(PROMOTING if own.promoting and not own.serving else PRIMARY) if holds else STANDBY,
        priority=own.priority,
        standby="cold" if own.cold else "hot",
        model_set=own.model_set,
        differs=entry.meta.get(DIFFERS_META, "") or _differs(seen, own),
        nofailover=own.nofailover,
        maintenance=own.maintenance,
        objections=seen.objections(own),
        settling_seconds=seen.settling(own),
        failback=decision.failback_due(own, seen.state.lock),
        unusable=dict(models_unusable(entry.tags)),
    )


def settling_text(seconds: float) -> str:
    """The text about a candidate that must still settle."""
    return f"settling, {math.ceil(seconds)} s to go"


def _differs(seen: ServiceStatus, own: Candidate) -> str:
    wanted = seen.reference
    if not own.model_set or not wanted or own.model_set == wanted:
        return ""
    return f"serves the model set {own.model_set}, not {wanted}"


def _reason(entry: ServiceEntry) -> str:
    """The first line of the worst check that does not pass; of equals, of a conclusive one."""

    def weight(check: Check) -> tuple[bool, bool]:
        return check.status == "critical", not checks.is_inconclusive(check)

    failing = [check for check in entry.checks if check.status != "passing"]
    if not failing:
        return ""
    worst = max(failing, key=weight)
    return checks.first_line(worst) or f"{worst.name} has not run yet"
