"""A model of Consul: the rules that the door relies on, in memory and on a clock of one's own.

`ConsulModel` is synchronous and takes the time with each call, so that a state machine can drive
it; `FakeConsul` makes it a `ConsulApi` and passes the contract suite that a real agent passes.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from sidecar.clock import Clock, SystemClock
from sidecar.consul import MAX_OUTPUT
from sidecar.consul_api import (
    Answer,
    Check,
    Delete,
    Held,
    KVEntry,
    Lock,
    Operation,
    ServiceEntry,
    Set,
    Status,
    Unchanged,
    Unlock,
    cut,
)
from sidecar.errors import Conflict, NotFound, Rejected, SessionLost

T = TypeVar("T")
NODE = "node"
_SERF = Check("serfHealth", "Serf Health Status", "passing", "Agent alive and reachable", "")


@dataclass
class Session:
    checks: tuple[str, ...]
    ttl: float
    lock_delay: float
    renewed: float


@dataclass
class ConsulModel:
    """`lapse` is after how many TTLs a session ends; Consul promises between one and two."""

    lapse: float = 2.0
    index: int = 10
    services: dict[str, ServiceEntry] = field(default_factory=dict)
    keys: dict[str, KVEntry] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    delayed: dict[str, float] = field(default_factory=dict)
    names: Any = field(default_factory=itertools.count)

    def pass_time(self, now: float) -> None:
        for name, session in list(self.sessions.items()):
            if now >= session.renewed + session.ttl * self.lapse:
                self.invalidate(name, now)

    def check(self, check_id: str) -> Check | None:
        for service in self.services.values():
            for check in service.checks:
                if check.id == check_id:
                    return check
        return None

    def register(self, body: Mapping[str, Any]) -> None:
        old = self.services.get(body["ID"])
        kept = {check.id: check for check in old.checks} if old else {}
        for wanted in body.get("Checks", ()):
            notes = wanted.get("Notes", "")
            fresh = Check(wanted["CheckID"], wanted["Name"], "critical", "", body["ID"], notes)
            known = kept.get(fresh.id, fresh)
            kept[fresh.id] = replace(fresh, status=known.status, output=known.output)
        weights = body.get("Weights", {"Passing": 1, "Warning": 1})
        self.index += 1
        self.services[body["ID"]] = ServiceEntry(
            node=NODE,
            id=body["ID"],
            name=body["Name"],
            address=body["Address"],
            port=body["Port"],
            tags=tuple(body.get("Tags", ())),
            meta=dict(body.get("Meta", {})),
            weight_passing=weights["Passing"],
            weight_warning=weights["Warning"],
            checks=tuple(sorted(kept.values(), key=lambda check: check.id)),
        )

    def deregister(self, service_id: str, now: float) -> None:
        gone = self.services.pop(service_id, None)
        if gone:
            self.index += 1
            self._end_sessions({check.id for check in gone.checks}, now)

    def set_check(self, check_id: str, status: str, output: str, now: float) -> None:
        old = self.check(check_id)
        if old is None:
            raise NotFound(f"unknown check {check_id}")
        service = self.services[old.service_id]
        new = replace(old, status=status, output=output)
        checks = tuple(new if check.id == check_id else check for check in service.checks)
        self.services[service.id] = replace(service, checks=checks)
        if status != old.status:
            self.index += 1
        if status == "critical":
            self._end_sessions({check_id}, now)

    def maintain(self, service_id: str, reason: str | None) -> None:
        service = self.services.get(service_id)
        if service is None:
            raise NotFound(f"unknown service {service_id}")
        check_id = f"_service_maintenance:{service_id}"
        checks = [found for found in service.checks if found.id != check_id]
        if reason is not None:
            name = "Service Maintenance Mode"
            checks.append(Check(check_id, name, "critical", "", service_id, reason))
        checks = sorted(checks, key=lambda found: found.id)
        self.services[service_id] = replace(service, checks=tuple(checks))
        self.index += 1

    def open_session(self, checks: Sequence[str], ttl: float, delay: float, now: float) -> str:
        for check_id in checks:
            check = self.check(check_id)
            if check is None or check.status == "critical":
                raise Rejected(f"check {check_id} is missing or critical")
        name = f"session-{next(self.names)}"
        self.sessions[name] = Session(tuple(checks), ttl, delay, now)
        self.index += 1
        return name

    def renew(self, session: str, now: float) -> None:
        self.pass_time(now)
        if session not in self.sessions:
            raise SessionLost(session)
        self.sessions[session].renewed = now

    def invalidate(self, session: str, now: float) -> None:
        ended = self.sessions.pop(session, None)
        if ended is None:
            return
        self.index += 1
        for key, entry in self.keys.items():
            if entry.session == session:
                self.keys[key] = replace(entry, session=None, modify_index=self.index)
                self.delayed[key] = now + ended.lock_delay

    def transact(self, operations: Sequence[Operation], now: float) -> dict[str, int]:
        self.pass_time(now)
        before = self.keys, self.index
        self.keys, self.index = dict(self.keys), self.index + 1
        written: dict[str, int] = {}
        try:
            for operation in operations:
                self._operate(operation, written, now)
        except Rejected:
            self.keys, self.index = before
            raise
        if self.keys == before[0]:
            self.index = before[1]
        return written

    def _operate(self, operation: Operation, written: dict[str, int], now: float) -> None:
        key = operation.key
        old = self.keys.get(key)
        holder = old.session if old else None
        match operation:
            case Held() | Unchanged():
                _require(operation, old)
            case Delete(index=index):
                if old and old.modify_index != index:
                    raise Conflict(f"{key}: index is stale")
                self.keys.pop(key, None)
            case Set(value=value, index=index):
                if index is not None and index != (old.modify_index if old else 0):
                    raise Conflict(f"{key}: index is stale")
                written[key] = self._write(key, value, holder, 0)
            case Lock(value=value, session=session):
                self._lockable(key, session, holder, now)
                count = old.lock_index if old else 0
                written[key] = self._write(key, value, session, count + (holder != session))
            case Unlock(value=value, session=session):
                if holder != session:
                    raise Conflict(f"{key}: lock isn't held, or is held by another session")
                written[key] = self._write(key, value, None, old.lock_index if old else 0)

    def _lockable(self, key: str, session: str, holder: str | None, now: float) -> None:
        if session not in self.sessions:
            raise SessionLost(session)
        if holder not in (None, session):
            raise Conflict(f"{key}: lock is already held")
        if now < self.delayed.get(key, now):
            raise Conflict(f"{key}: due to lock delay")

    def _write(self, key: str, value: bytes, session: str | None, count: int) -> int:
        """Write a key; `count` is its LockIndex, which every plain write sets back to 0."""
        old = self.keys.get(key)
        if old and (old.value, old.session, old.lock_index) == (value, session, count):
            return old.modify_index  # Consul leaves the index alone when a write changes nothing
        created = old.create_index if old else self.index
        self.keys[key] = KVEntry(key, value, session, self.index, count, created)
        return self.index

    def _end_sessions(self, check_ids: set[str], now: float) -> None:
        for name, session in list(self.sessions.items()):
            if check_ids & set(session.checks):
                self.invalidate(name, now)


def _require(operation: Held | Unchanged, old: KVEntry | None) -> None:
    if isinstance(operation, Held) and (old is None or old.session != operation.session):
        raise Conflict(f"failed session check for key {operation.key}")
    if isinstance(operation, Unchanged) and (old is None or old.modify_index != operation.index):
        raise Conflict(f"failed index check for key {operation.key}")


class FakeConsul:
    """A `ConsulApi` on the model."""

    def __init__(self, model: ConsulModel | None = None, clock: Clock | None = None) -> None:
        self.model = model or ConsulModel()
        self._clock = clock or SystemClock()
        self._changed = asyncio.Condition()

    async def health_service(
        self,
        name: str,
        *,
        index: int = 0,
        wait: float = 0,
        consistent: bool = False,
        dc: str = "",
    ) -> Answer[tuple[ServiceEntry, ...]]:
        def read() -> tuple[ServiceEntry, ...]:
            # The model knows one datacenter, its own.
            found = (s for s in self.model.services.values() if s.name == name and not dc)
            whole = (replace(s, checks=(_SERF, *s.checks)) for s in found)
            return tuple(sorted(whole, key=lambda service: service.id))

        return await self._block(read, index, wait)

    async def sees_all(self, name: str) -> bool:
        return True

    async def kv_prefix(
        self, prefix: str, *, index: int = 0, wait: float = 0, consistent: bool = False
    ) -> Answer[tuple[KVEntry, ...]]:
        def read() -> tuple[KVEntry, ...]:
            keys = sorted(key for key in self.model.keys if key.startswith(prefix))
            return tuple(self.model.keys[key] for key in keys)

        return await self._block(read, index, wait)

    async def kv(self, key: str, *, consistent: bool = False) -> Answer[KVEntry | None]:
        return await self._block(lambda: self.model.keys.get(key), 0, 0)

    async def register_service(self, registration: Mapping[str, Any]) -> None:
        await self.change(lambda _: self.model.register(registration))

    async def deregister_service(self, service_id: str) -> None:
        await self.change(lambda now: self.model.deregister(service_id, now))

    async def maintain_service(self, service_id: str, reason: str | None) -> None:
        await self.change(lambda _: self.model.maintain(service_id, reason))

    async def agent_service(self, service_id: str) -> ServiceEntry | None:
        found = self.model.services.get(service_id)
        return replace(found, node="") if found else None

    async def update_check(self, check_id: str, status: Status, output: str) -> None:
        shown = cut(output, MAX_OUTPUT)
        await self.change(lambda now: self.model.set_check(check_id, status, shown, now))

    async def session_create(
        self, name: str, *, ttl: float, lock_delay: float, service_checks: Sequence[str]
    ) -> str:
        return await self.change(
            lambda now: self.model.open_session(service_checks, ttl, lock_delay, now)
        )

    async def session_renew(self, session: str) -> None:
        await self.change(lambda now: self.model.renew(session, now))

    async def session_destroy(self, session: str) -> None:
        await self.change(lambda now: self.model.invalidate(session, now))

    async def transact(self, *operations: Operation) -> Mapping[str, int]:
        return await self.change(lambda now: self.model.transact(operations, now))

    async def change(self, change: Callable[[float], T]) -> T:
        async with self._changed:
            result = change(self._clock.now())
            self._changed.notify_all()
            return result

    async def _block(self, read: Callable[[], T], index: int, wait: float) -> Answer[T]:
        async with self._changed:
            if index > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._changed.wait_for(lambda: self.model.index > index)
            return Answer(read(), self.model.index, known_leader=True)
