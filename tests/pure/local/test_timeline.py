"""What an observer of a mesh sees of Consul."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from sidecar.consul.api import Check, KVEntry, QueryResult, ServiceEntry
from sidecar.election.keys import lock
from sidecar.election.keys.lock import Claim
from sidecar.local import consul_view, timeline
from sidecar.local.planning.plan import SERVICE
from sidecar.registry.checks import verdict_check
from tests.support.operator_scene import entry
from tests.support.virtual_clock import settle


def held(instance: str, epoch: int) -> tuple[KVEntry, ...]:
    value = lock.dumps(Claim(instance, "session"))
    return tuple(
        KVEntry(key, value, "session", epoch, 1)
        for key in (lock.epoch_key(SERVICE), lock.lock_key(SERVICE))
    )


class ApplyingItsLog:
    """A leader that has just started: only a consistent read waits until its log is applied."""

    async def kv_prefix(
        self, prefix: str, *, index: int = 0, wait: float = 0, consistent: bool = False
    ) -> QueryResult[tuple[KVEntry, ...]]:
        found = held("triton-1", 90) if consistent else held("triton-0", 80)
        return await self._answer(found, index, consistent)

    async def health_service(
        self, name: str, *, index: int = 0, wait: float = 0, consistent: bool = False
    ) -> QueryResult[tuple[ServiceEntry, ...]]:
        found = ServiceEntry(
            "node", "triton-1" if consistent else "triton-0", name, "::1", 1, (), {}, 1, 1, ()
        )
        return await self._answer((found,), index, consistent)

    async def _answer(self, found: Any, index: int, consistent: bool) -> QueryResult[Any]:
        if index:
            await asyncio.Event().wait()
        return QueryResult(found, 90 if consistent else 80, known_leader=True)


async def test_the_state_of_long_ago_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def connect(mesh: object) -> AsyncIterator[ApplyingItsLog]:
        yield ApplyingItsLog()

    monkeypatch.setattr(consul_view, "connect", connect)
    mesh: Any = None
    async with timeline.follow(mesh, traffic=False) as seen:
        await settle()
    assert {(one.kind, one.instance) for one in seen.sightings} == {
        ("verdict", "triton-1"),
        ("primary", "triton-1"),
    }


class Failing:
    """A service whose only instance gets one verdict after the other."""

    def __init__(self, *verdicts: tuple[str, str]) -> None:
        self.verdicts = verdicts

    async def kv_prefix(self, prefix: str, **_: object) -> QueryResult[tuple[KVEntry, ...]]:
        return await self._forever()

    async def health_service(
        self, name: str, *, index: int = 0, **_: object
    ) -> QueryResult[tuple[ServiceEntry, ...]]:
        if index == len(self.verdicts):
            return await self._forever()
        status, line = self.verdicts[index]
        check = Check(verdict_check("a"), "", status, line, "a")
        entry = ServiceEntry("node", "a", name, "::1", 1, (), {}, 1, 1, (check,))
        return QueryResult((entry,), index + 1, known_leader=True)

    async def _forever(self) -> QueryResult[Any]:
        await asyncio.Event().wait()
        raise AssertionError


async def test_another_reason_is_seen_unless_the_instance_passes() -> None:
    consul: Any = Failing(
        ("passing", "PASSING OK"),
        ("passing", "PASSING NOT_PROVEN_YET: odd"),
        ("critical", "CRITICAL MODEL_NOT_READY: faulty"),
        ("critical", "CRITICAL MODEL_NOT_READY: faulty, still"),
        ("critical", "CRITICAL MODEL_WRONG_VERSION: faulty"),
        ("passing", "PASSING OK"),
    )
    async with timeline.follow_service(consul, SERVICE) as seen:
        await settle()
    assert [(one.value, one.reason) for one in seen.sightings] == [
        ("passing", "OK"),
        ("critical", "MODEL_NOT_READY"),
        ("critical", "MODEL_WRONG_VERSION"),
        ("passing", "OK"),
    ]


def test_a_reason_is_of_the_check_that_made_the_status() -> None:
    hung = entry("triton-0", "critical", "CRITICAL MODEL_HUNG: chat: stuck")
    assert timeline.reason(hung) == "MODEL_HUNG"
    silent = Check("triton-0:sidecar", "alive", "critical", "connection refused", "triton-0")
    well = entry("triton-0", "passing", "PASSING OK")
    assert timeline.reason(well) == "OK"
    assert timeline.reason(replace(well, checks=(*well.checks, silent))) == ""
