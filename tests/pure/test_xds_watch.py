"""The watching loops on the model of Consul and on a clock that is turned by hand."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TypeVar

import pytest

from sidecar.consul_api import Answer, KVEntry, ServiceEntry
from sidecar.election import lock
from sidecar.errors import Rejected, SidecarError, Unavailable
from sidecar.xds.catalog import Catalog, ServiceCatalog
from sidecar.xds.endpoints import assign
from sidecar.xds.evidence import LeftOut
from sidecar.xds.watch import CatalogWatch, WatchTiming
from tests.consul_model import ConsulModel, FakeConsul

T = TypeVar("T")
TIMING = WatchTiming(wait=1e6)
OWN = "xds"
MINUTE = 60.0


class HandClock:
    """Time passes only by `turn`."""

    def __init__(self) -> None:
        self._now = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return 1_700_000_000.0 + self._now

    def jitter(self, seconds: float, fraction: float) -> float:
        return seconds

    async def sleep(self, seconds: float) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now + seconds, waiter))
        await waiter

    async def turn(self, seconds: float) -> None:
        """Let time pass in small steps, each with everything that follows from it."""
        end = self._now + seconds
        while True:
            await quiet()
            self._sleepers = [(at, waiter) for at, waiter in self._sleepers if not waiter.done()]
            due = min((at for at, _ in self._sleepers), default=end)
            if due > end:
                break
            self._now = max(self._now, due)
            for at, waiter in self._sleepers:
                if at <= self._now:
                    waiter.set_result(None)
            if due == end and not self._sleepers:
                break
        self._now = end


async def quiet() -> None:
    """Let every task run until it waits."""
    for _ in range(50):
        await asyncio.sleep(0)


class Consul(FakeConsul):
    """The fake, with faults."""

    fault: SidecarError | None = None
    consistent_fault: SidecarError | None = None
    hangs = ""
    leader = True
    blind = False
    unreadable = ""

    async def health_service(
        self, name: str, *, index: int = 0, wait: float = 0, consistent: bool = False
    ) -> Answer[tuple[ServiceEntry, ...]]:
        self._fail(name, consistent and index == 0)
        if self.hangs == name and consistent:
            await asyncio.Event().wait()
        answer = await super().health_service(name, index=index, wait=wait)
        self._fail(name, False)
        return self._seen(answer, ())

    async def kv_prefix(
        self, prefix: str, *, index: int = 0, wait: float = 0, consistent: bool = False
    ) -> Answer[tuple[KVEntry, ...]]:
        self._fail(prefix.split("/")[1], consistent and index == 0)
        answer = await super().kv_prefix(prefix, index=index, wait=wait)
        self._fail(prefix.split("/")[1], False)
        return self._seen(answer, ())

    async def wake(self) -> None:
        """Something in the store has changed."""
        async with self._changed:
            self.model.index += 1
            self._changed.notify_all()

    def up(self, name: str, service: str = "triton") -> None:
        """A healthy instance."""
        self.model.register(
            {
                "ID": name,
                "Name": service,
                "Address": "10.0.0.1",
                "Port": 8000 + ord(name[0]),
                "Meta": {"sidecar_grpc_port": "9001"},
                "Checks": [{"CheckID": f"{name}:verdict", "Name": "verdict"}],
            }
        )
        self.model.set_check(f"{name}:verdict", "passing", "fine", 0.0)

    def lead(self, name: str, epoch: int | None = None) -> None:
        """The lock, as its holder writes it."""
        self.model.index += 1
        value = json.dumps({"instance": name, "session": name}).encode()
        index = self.model.index if epoch is None else epoch
        for key, session in ((lock.lock_key("triton"), name), (lock.epoch_key("triton"), None)):
            self.model.keys[key] = KVEntry(key, value, session, index, 1)

    def _fail(self, name: str, consistent: bool) -> None:
        if self.unreadable == name:
            raise Rejected("Permission denied")
        fault = self.fault or (self.consistent_fault if consistent else None)
        if fault:
            raise fault

    def _seen(self, answer: Answer[T], nothing: T) -> Answer[T]:
        value = nothing if self.blind else answer.value
        return replace(answer, value=value, known_leader=self.leader)


class Ears:
    """Remembers what the watches say."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.excluded: list[LeftOut] = []

    def answered(self, service: str, what: str) -> None: ...

    def failed(self, service: str, what: str, why: str) -> None:
        self.failures.append(why)

    def left_out(self, service: str, found: tuple[LeftOut, ...]) -> None:
        self.excluded = list(found)


class Scene:
    """A running watch; `published` is every catalog that it has shown."""

    def __init__(self, *services: str) -> None:
        self.consul = Consul(ConsulModel())
        self.clock = HandClock()
        self.ears = Ears()
        self.published: list[Catalog] = []
        self.watch = CatalogWatch(services, OWN, self.consul, self.clock, self.ears, TIMING)

    async def record(self) -> None:
        async for catalog in self.watch.catalog:
            if catalog is not None:
                self.published.append(catalog)

    @property
    def service(self) -> ServiceCatalog:
        return self.published[-1].services[0]

    @property
    def ids(self) -> list[str]:
        return [instance.id for instance in self.service.instances]

    async def change(self) -> None:
        """Have Consul tell what was changed, and everybody act on it."""
        await self.consul.wake()
        await self.clock.turn(0.1)


@asynccontextmanager
async def running(scene: Scene) -> AsyncIterator[Scene]:
    tasks = [asyncio.create_task(scene.record()), asyncio.create_task(scene.watch.run())]
    await scene.clock.turn(0.1)
    try:
        yield scene
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """Two healthy instances, `a` leads; our own entry is there."""
    scene = Scene("triton")
    scene.consul.up("a")
    scene.consul.up("b")
    scene.consul.up("xds", OWN)
    scene.consul.lead("a")
    async with running(scene):
        yield scene


async def test_what_consul_shows_is_published(scene: Scene) -> None:
    assert scene.ids == ["a", "b"]
    assert scene.service.leader is not None
    assert scene.service.leader.instance == "a"
    assert scene.service.settled


async def test_a_handover_is_published_in_one_piece(scene: Scene) -> None:
    before = len(scene.published)
    # Two watches see two changes, one after the other.
    await scene.consul.maintain_service("a", "drain")
    await quiet()
    scene.consul.lead("b")
    await scene.change()
    assert len(scene.published) == before + 1
    found = assign(scene.service)["triton"]
    assert [[i.id for i in group] for group in found.priorities] == [["b"]]
    assert [i.id for i in found.withdrawn] == ["a"]


async def test_a_change_that_changes_nothing_is_not_published(scene: Scene) -> None:
    before = len(scene.published)
    await scene.change()
    assert len(scene.published) == before


@pytest.mark.parametrize("trouble", ["no answer", "no leader"])
async def test_without_an_answer_nothing_is_learnt(scene: Scene, trouble: str) -> None:
    scene.consul.blind = True
    if trouble == "no answer":
        scene.consul.fault = Unavailable("Consul: no answer in time")
    else:
        scene.consul.leader = False
    await scene.change()
    await scene.clock.turn(10 * MINUTE)
    assert scene.ids == ["a", "b"]
    assert len(scene.published) == 1
    assert scene.ears.failures
    scene.consul.fault, scene.consul.leader, scene.consul.blind = None, True, False
    scene.consul.up("c")
    await scene.change()
    await scene.clock.turn(5.0)
    assert scene.ids == ["a", "b", "c"]


async def test_a_token_that_sees_nothing_empties_nothing(scene: Scene) -> None:
    scene.consul.blind = True
    await scene.change()
    await scene.clock.turn(10 * MINUTE)
    assert scene.ids == ["a", "b"]
    assert len(scene.published) == 1


async def test_a_service_that_is_really_gone_is_emptied_after_a_while(scene: Scene) -> None:
    for name in "ab":
        scene.consul.model.deregister(name, 0.0)
    await scene.change()
    await scene.clock.turn(0.9 * MINUTE)
    assert scene.ids == ["a", "b"]
    await scene.clock.turn(0.2 * MINUTE)
    assert scene.ids == []
    assert scene.service.settled


async def test_the_last_good_instance_goes_only_when_its_absence_is_proven(scene: Scene) -> None:
    scene.consul.model.deregister("a", 0.0)
    scene.consul.model.set_check("b:verdict", "critical", "wrong answer", 0.0)
    scene.consul.consistent_fault = Unavailable("Consul: no quorum")
    await scene.change()
    await scene.clock.turn(10 * MINUTE)
    assert scene.ids == ["a", "b"]
    scene.consul.consistent_fault = None
    await scene.clock.turn(MINUTE)
    assert scene.ids == ["b"]


async def test_a_proof_that_takes_long_delays_no_other_service() -> None:
    scene = Scene("gone", "triton")
    scene.consul.up("xds", OWN)
    scene.consul.up("a")
    scene.consul.hangs = OWN
    async with running(scene):
        await scene.clock.turn(2 * MINUTE)
        scene.consul.up("b")
        await scene.change()
        gone, triton = scene.published[-1].services
        assert [instance.id for instance in triton.instances] == ["a", "b"]
        assert not gone.settled


async def test_an_entry_deleted_by_somebody_is_held_for_a_while(scene: Scene) -> None:
    scene.consul.model.deregister("b", 0.0)
    await scene.change()
    await scene.clock.turn(0.9 * MINUTE)
    assert len(scene.published) == 1
    await scene.clock.turn(0.2 * MINUTE)
    assert scene.ids == ["a"]


async def test_an_agent_that_forgot_everything_changes_nothing(scene: Scene) -> None:
    scene.consul.fault = Unavailable("Consul: connection reset")
    await scene.change()
    scene.consul.model = ConsulModel(index=1)
    scene.consul.fault = None
    await scene.clock.turn(5.0)
    # The sidecars register again, one after the other, and elect again at a lower index.
    scene.consul.up("b")
    await scene.change()
    scene.consul.up("a")
    scene.consul.up("xds", OWN)
    await scene.change()
    assert len(scene.published) == 1
    scene.consul.lead("b", epoch=3)
    await scene.change()
    assert scene.service.leader is not None
    assert (scene.service.leader.instance, scene.service.leader.epoch) == ("b", 3)


async def test_an_older_epoch_is_not_believed_without_proof(scene: Scene) -> None:
    scene.consul.consistent_fault = Unavailable("Consul: no quorum")
    scene.consul.lead("b", epoch=1)
    await scene.change()
    await scene.clock.turn(MINUTE)
    assert scene.service.leader is not None
    assert scene.service.leader.instance == "a"
    scene.consul.consistent_fault = None
    await scene.clock.turn(MINUTE)
    assert scene.service.leader is not None
    assert scene.service.leader.instance == "b"


async def test_what_is_left_out_is_said(scene: Scene) -> None:
    scene.consul.up("c")
    entry = scene.consul.model.services["c"]
    scene.consul.model.services["c"] = replace(entry, meta={})
    await scene.change()
    assert [found.id for found in scene.ears.excluded] == ["c"]
    assert scene.ids == ["a", "b"]


async def test_at_the_start_nothing_is_said_about_a_service_without_usable_instances() -> None:
    scene = Scene("triton")
    scene.consul.up("xds", OWN)
    async with running(scene):
        assert not scene.service.settled
        await scene.clock.turn(0.9 * MINUTE)
        assert not scene.service.settled
        await scene.clock.turn(0.2 * MINUTE)
        assert scene.service.settled  # it really is empty


async def test_at_the_start_one_that_is_not_heard_of_yet_is_waited_for() -> None:
    scene = Scene("triton")
    for name in "ab":
        scene.consul.up(name)
    scene.consul.model.set_check("b:verdict", "critical", "TTL expired", 0.0)
    async with running(scene):
        assert not scene.service.settled
        scene.consul.model.set_check("b:verdict", "passing", "fine", 0.0)
        await scene.change()
        assert scene.service.settled


async def test_at_the_start_an_empty_view_is_not_believed() -> None:
    scene = Scene("triton")
    async with running(scene):
        await scene.clock.turn(10 * MINUTE)
        assert not scene.service.settled
        scene.consul.up("a")
        await scene.change()
        assert scene.service.settled


async def test_a_service_that_may_not_be_read_does_not_silence_the_others() -> None:
    scene = Scene("secret", "triton")
    scene.consul.unreadable = "secret"
    scene.consul.up("a")
    async with running(scene):
        secret, triton = scene.published[-1].services
        assert (secret.settled, triton.settled) == (False, True)


async def test_without_any_answer_there_is_no_catalog() -> None:
    scene = Scene("triton")
    scene.consul.fault = Unavailable("Consul: connection refused")
    async with running(scene):
        await scene.clock.turn(MINUTE)
        assert scene.published == []
