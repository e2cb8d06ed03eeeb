"""Builders of the input of operators' commands: catalog entries, election keys, a status."""

from collections.abc import Sequence
from dataclasses import replace

from sidecar.consul.api import Check, KVEntry, ServiceEntry
from sidecar.election.keys import lock, orders
from sidecar.election.keys.lock import Claim, Ended
from sidecar.election.keys.orders import Kind, Order, Outcome, Pause
from sidecar.operator import service_status
from sidecar.operator.plans import OrderRequest
from sidecar.operator.service_status import ServiceStatus

NOW = 1_700_000_000.0
SETS = {"old": "files-0000000000000000", "new": "files-1111111111111111"}
WISH = OrderRequest("order-1", "jane@desk")


def entry(
    name: str,
    status: str = "passing",
    output: str = "PASSING OK",
    tags: Sequence[str] = (),
    maintenance: str | None = None,
    **meta: str,
) -> ServiceEntry:
    checks = [Check(f"{name}:verdict", "Triton verdict", status, output, name)]
    if maintenance is not None:
        id_ = f"_service_maintenance:{name}"
        checks.append(Check(id_, "Service Maintenance Mode", "critical", "", name, maintenance))
    return ServiceEntry(
        node="n",
        id=name,
        name="t",
        address="10.0.0.1",
        port=8001,
        tags=("standby", *tags),
        meta={"model_set": SETS["old"], **meta},
        weight_passing=1,
        weight_warning=1,
        checks=tuple(checks),
    )


def cold(name: str) -> ServiceEntry:
    return entry(name, "critical", "COLD COLD: its models are not loaded", standby="cold")


def key(name: str, value: object, index: int, session: str | None = None) -> KVEntry:
    text = value if isinstance(value, bytes) else lock.dumps(value)
    return KVEntry(name, text, session, index, 1, index)


def seen(
    *entries: ServiceEntry,
    holder: str | None = "a",
    last: str | None = "a",
    order: Order | bytes | None = None,
    pause: Pause | None = None,
    outcome: Outcome | None = None,
    declared: str = "",
) -> ServiceStatus:
    keys = []
    if last:
        claim = Claim(last, "s", "2026-01-01T00:00:00.000Z", model_set=SETS["old"])
        ended = claim if holder else replace(claim, ended=Ended("it is shutting down", NOW - 1))
        keys.append(key(lock.lock_key("t"), ended, 40, "s" if holder else None))
        keys.append(key(lock.epoch_key("t"), claim, 40))
    for name, value in (
        (orders.order_key("t"), order),
        (orders.pause_key("t"), pause),
        (orders.outcome_key("t"), outcome),
    ):
        if value is not None:
            keys.append(key(name, value, 50))
    return service_status.read("t", entries, keys, 60, NOW, declared)


def pending(at: float = NOW + 600) -> Order:
    return Order("order-0", Kind.SWITCHOVER, at, "joe@desk", "b", "night")


PENDING = "switchover to b by joe@desk, for 2023-11-14T22:23:20.000Z (night)"
