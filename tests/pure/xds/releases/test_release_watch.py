"""A release that does badly is rolled back here at once, and in Consul as soon as possible."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from sidecar.consul.api import KVEntry, QueryResult, Set
from sidecar.runtime.errors import Unavailable
from sidecar.runtime.latest import Latest
from sidecar.traffic.document import dump, parse, policy_key
from sidecar.traffic.guard import Observation, Rollback, judge
from sidecar.traffic.policy import Guard, Mode, Release, TrafficPolicy
from sidecar.xds.catalog import cached_state
from sidecar.xds.catalog.cached_state import CachedState
from sidecar.xds.catalog.catalog import Catalog, ServiceCatalog
from sidecar.xds.config.endpoints import share
from sidecar.xds.releases.release_watch import ReleaseWatch
from sidecar.xds.releases.rollbacks import with_rollbacks
from tests.support.consul_model import FakeConsul
from tests.support.virtual_clock import VirtualClock, settle

RELEASE = Release(tag="v2", percent=20, guard=Guard(max_error_percent=5.0))
POLICY = TrafficPolicy(mode=Mode.ACTIVE_ACTIVE, release=RELEASE)
KEY = policy_key("triton")
GOOD = Observation(requests=1000, failed=10)
BAD = Observation(requests=1000, failed=60, span=12.0)
WHY = judge(Guard(max_error_percent=5.0), BAD) or ""


class Counting:
    """Returns what the test sets; `asked` are the queries."""

    def __init__(self) -> None:
        self.looks = Latest(0)
        self.blind = False
        self.seen = GOOD
        self.asked: list[tuple[str, float, float]] = []

    def released(self, service: str, since: float, window: float) -> Observation:
        self.asked.append((service, since, window))
        return self.seen


class Listener:
    """Records the events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def guard_blind(self, service: str) -> None:
        self.events.append("blind")

    def guard_tripped(self, service: str, why: str) -> None:
        self.events.append("tripped")

    def rollback_kept(self, service: str, why: str) -> None:
        self.events.append("kept")

    def rollback_written(self, service: str, why: str) -> None:
        self.events.append("written")

    def rollback_unwritten(self, service: str, why: str) -> None:
        self.events.append(f"unwritten: {why}")

    def rollback_ended(self, service: str) -> None:
        self.events.append("ended")


class Consul(FakeConsul):
    """`gone` does not answer; `meddle` is written by another client between a read and a write."""

    gone = False
    meddle: str | None = None

    async def kv_prefix(self, prefix: str, **options: Any) -> QueryResult[tuple[KVEntry, ...]]:
        if self.gone:
            raise Unavailable("Consul: kv: no answer in time")
        found = await super().kv_prefix(prefix, **options)
        if self.meddle is not None:
            document, self.meddle = self.meddle, None
            await self.transact(Set(KEY, document.encode()))
        return found


class Scene:
    """A watch of the service `triton`, whose catalog follows Consul when `follow` is called."""

    def __init__(
        self, consul: Consul | None = None, kept: Mapping[str, Rollback] | None = None
    ) -> None:
        self.clock = VirtualClock()
        self.consul = consul or Consul(clock=self.clock)
        self.catalog: Latest[Catalog | None] = Latest(None)
        self.counting = Counting()
        self.listener = Listener()
        self.watch = ReleaseWatch(
            self.catalog, self.counting, self.consul, self.clock, self.listener, kept
        )

    async def order(self, policy: TrafficPolicy) -> None:
        """As an operator does."""
        await self.consul.transact(Set(KEY, dump(policy).encode()))

    async def follow(self) -> None:
        """The catalog's own watch sees what is in Consul."""
        entry = self.consul.model.keys.get(KEY)
        policy = parse(entry.value) if entry else TrafficPolicy()
        self.catalog.set(Catalog((ServiceCatalog("triton", policy=policy), ServiceCatalog("two"))))
        await settle()

    async def look(self, seen: Observation) -> None:
        """Envoy is read."""
        self.counting.seen = seen
        self.counting.looks.set(self.counting.looks.value + 1)
        await settle()

    @property
    def rollbacks(self) -> Mapping[str, Rollback]:
        """The rollbacks in force, as the next process finds them."""
        state = CachedState(("triton", "two"), rollbacks=self.watch.rollbacks.value)
        found, _ = cached_state.load(cached_state.dump(state, 0.0), state.services)
        return found.rollbacks

    @property
    def stored(self) -> TrafficPolicy:
        """The policy in Consul."""
        return parse(self.consul.model.keys[KEY].value)

    @property
    def published(self) -> int:
        """The percentage that the release gets."""
        assert self.catalog.value
        merged = with_rollbacks(self.catalog.value, self.watch.rollbacks.value)
        return share(merged.services[0].policy)


@asynccontextmanager
async def watching() -> AsyncIterator[Scene]:
    scene = Scene()
    await scene.order(POLICY)
    async with running(scene):
        await scene.follow()
        yield scene


@asynccontextmanager
async def running(scene: Scene) -> AsyncIterator[Scene]:
    task = asyncio.create_task(scene.watch.run())
    await settle()
    try:
        yield scene
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def stopped_plane(*, written: bool = False) -> Scene:
    """A control plane that has rolled back its release and ended; written to Consul, or not."""
    async with watching() as scene:
        scene.consul.gone = not written
        await scene.look(BAD)
    return scene


async def test_a_healthy_release_continues() -> None:
    async with watching() as scene:
        await scene.look(GOOD)
        assert scene.published == 20
        assert scene.listener.events == []


async def test_a_failing_release_is_rolled_back_here_and_in_consul() -> None:
    async with watching() as scene:
        await scene.look(BAD)
        assert scene.published == 0
        assert scene.stored == replace(POLICY, release=replace(RELEASE, rolled_back=WHY))
        await scene.follow()
        assert scene.watch.rollbacks.value == {}  # the document has it
        assert scene.published == 0
        await scene.look(BAD)
        assert scene.listener.events == ["tripped", "written", "ended"]


async def test_without_consul_it_is_rolled_back_here_and_written_when_consul_is_back() -> None:
    async with watching() as scene:
        scene.consul.gone = True
        await scene.look(BAD)
        await scene.clock.advance(600.0)
        await scene.look(GOOD)  # Envoy is not read any more
        assert scene.published == 0
        assert set(scene.listener.events) == {"tripped", "unwritten: Consul: kv: no answer in time"}
        scene.consul.gone = False
        await scene.clock.advance(2.0)
        assert scene.stored.release == replace(RELEASE, rolled_back=WHY)
        assert scene.listener.events[-1] == "written"


async def test_other_changes_in_the_meantime_are_kept() -> None:
    async with watching() as scene:
        changed = replace(POLICY, limits=replace(POLICY.limits, max_requests=7))
        scene.consul.meddle = dump(changed)
        await scene.look(BAD)
        assert scene.published == 0
        await scene.clock.advance(2.0)
        rolled_back = replace(RELEASE, rolled_back=WHY)
        assert scene.stored == replace(changed, release=rolled_back)


@pytest.mark.parametrize(
    "release", [None, replace(RELEASE, percent=5), replace(RELEASE, rolled_back="by root@vm")]
)
async def test_a_faster_writer_wins(release: Release | None) -> None:
    async with watching() as scene:
        other = replace(POLICY, release=release)
        scene.consul.meddle = dump(other)
        await scene.look(BAD)
        scene.counting.seen = GOOD
        await scene.clock.advance(5.0)
        assert scene.published == 0  # as far as the watch knows
        assert scene.stored == other
        await scene.follow()
        assert scene.watch.rollbacks.value == {}
        assert scene.stored == other
        assert scene.listener.events == ["tripped", "ended"]


async def test_the_same_release_ordered_again_gets_a_new_chance() -> None:
    async with watching() as scene:
        await scene.look(BAD)
        await scene.order(POLICY)  # so fast that the watch has not noticed
        await scene.clock.advance(2.0)
        assert scene.watch.rollbacks.value == {}
        assert scene.published == 20
        await scene.look(GOOD)
        assert scene.counting.asked[-1] == ("triton", scene.clock.now() - 1.0, 30.0)
        await scene.look(BAD)
        assert scene.published == 0
        assert scene.stored.release == replace(RELEASE, rolled_back=WHY)


async def test_another_release_is_judged_by_its_own_requests() -> None:
    async with watching() as scene:
        ordered_at = scene.clock.now()
        await scene.clock.advance(20.0)
        await scene.look(GOOD)
        assert scene.counting.asked[-1] == ("triton", ordered_at, 30.0)
        await scene.order(replace(POLICY, release=replace(RELEASE, percent=40)))
        await scene.follow()
        assert scene.counting.asked[-1] == ("triton", scene.clock.now(), 30.0)


@pytest.mark.parametrize(
    "policy",
    [
        TrafficPolicy(),
        replace(POLICY, release=replace(RELEASE, guard=None)),
        replace(POLICY, release=replace(RELEASE, percent=0)),
        replace(POLICY, release=replace(RELEASE, rolled_back="by root@vm")),
        replace(POLICY, mode=Mode.STRICT),
    ],
)
async def test_a_release_without_requests_or_guard_is_not_judged(policy: TrafficPolicy) -> None:
    async with watching() as scene:
        scene.catalog.set(Catalog((ServiceCatalog("triton", policy=policy),)))
        await settle()
        scene.counting.asked.clear()
        await scene.look(BAD)
        assert scene.counting.asked == []
        assert scene.watch.rollbacks.value == {}


async def test_a_missing_or_invalid_document_is_not_changed() -> None:
    async with watching() as scene:
        await scene.consul.transact(Set(KEY, b"{"))
        await scene.look(BAD)
        assert scene.published == 0
        assert scene.consul.model.keys[KEY].value == b"{"
        assert scene.listener.events[1].startswith("unwritten: expected JSON")
        del scene.consul.model.keys[KEY]
        await scene.clock.advance(2.0)
        assert scene.published == 0
        await scene.follow()
        assert scene.watch.rollbacks.value == {}


async def test_a_guard_without_counters_is_reported_once() -> None:
    async with watching() as scene:
        assert scene.listener.events == []
    scene = Scene()
    scene.counting.blind = True
    await scene.order(POLICY)
    task = asyncio.create_task(scene.watch.run())
    await scene.follow()
    await scene.look(GOOD)
    assert scene.listener.events == ["blind"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# --- over a restart -------------------------------------------------------------------------------


async def test_an_unwritten_rollback_is_in_force_right_after_a_restart() -> None:
    before = await stopped_plane()
    scene = Scene(before.consul, before.rollbacks)
    shares: set[int] = set()

    async def record() -> None:
        async for catalog in scene.watch.published:
            if catalog is not None:
                shares.add(share(catalog.services[0].policy))

    recording = asyncio.create_task(record())
    async with running(scene):
        await scene.follow()  # the cached state
        await scene.look(GOOD)  # Envoy is not read
        await scene.clock.advance(600.0)
        assert shares == {0}
        scene.consul.gone = False
        await scene.clock.advance(2.0)
        assert scene.stored == replace(POLICY, release=replace(RELEASE, rolled_back=WHY))
        await scene.follow()
        assert scene.rollbacks == {}
    recording.cancel()
    await asyncio.gather(recording, return_exceptions=True)
    assert shares == {0}
    unwritten = "unwritten: Consul: kv: no answer in time"
    assert list(dict.fromkeys(scene.listener.events)) == ["kept", unwritten, "written", "ended"]


@pytest.mark.parametrize(
    "release", [None, replace(RELEASE, percent=5), replace(RELEASE, rolled_back="by root@vm")]
)
async def test_a_policy_ordered_during_a_restart_wins(
    release: Release | None,
) -> None:
    before = await stopped_plane()
    before.consul.gone = False
    other = replace(POLICY, release=release)
    await before.order(other)
    scene = Scene(before.consul, before.rollbacks)
    async with running(scene):
        await scene.follow()
        assert scene.rollbacks == {}
        assert scene.published == share(other)
        await scene.clock.advance(5.0)
        assert scene.stored == other


async def test_the_same_release_ordered_again_during_a_restart_gets_a_new_chance() -> None:
    before = await stopped_plane(written=True)
    assert before.rollbacks  # the watch has not noticed it
    await before.order(POLICY)
    scene = Scene(before.consul, before.rollbacks)
    async with running(scene):
        await scene.follow()
        await scene.clock.advance(2.0)
        assert scene.rollbacks == {}
        assert scene.published == 20
        assert scene.stored == POLICY


async def test_of_two_tripped_control_planes_the_restarted_one_follows_the_written_rollback() -> (
    None
):
    before = await stopped_plane()
    theirs = replace(POLICY, release=replace(RELEASE, rolled_back="the other one: 9 % failed"))
    await before.order(theirs)
    scene = Scene(before.consul, before.rollbacks)
    async with running(scene):
        scene.catalog.set(Catalog((ServiceCatalog("triton", policy=POLICY),)))  # cached
        await scene.clock.advance(600.0)
        assert scene.published == 0
        scene.consul.gone = False
        await scene.clock.advance(2.0)
        await scene.follow()
        assert (scene.rollbacks, scene.published) == ({}, 0)
        assert scene.stored == theirs
        await scene.order(POLICY)  # by an operator who has read that
        await scene.follow()
        await scene.clock.advance(5.0)
        assert (scene.published, scene.stored) == (20, POLICY)


async def test_a_policy_that_has_not_been_read_yet_ends_no_rollback() -> None:
    before = await stopped_plane()
    scene = Scene(before.consul, before.rollbacks)
    async with running(scene):
        await scene.look(GOOD)  # there is no catalog yet
        scene.catalog.set(Catalog((ServiceCatalog("triton", settled=False),)))
        await scene.look(GOOD)
        assert scene.rollbacks == before.rollbacks
        await scene.follow()
        assert scene.published == 0
        scene.catalog.set(Catalog((ServiceCatalog("triton"),)))  # now it has been read
        await settle()
        assert scene.rollbacks == {}


async def test_without_a_file_the_next_process_knows_nothing() -> None:
    before = await stopped_plane()
    scene = Scene(before.consul)
    async with running(scene):
        await scene.follow()
        assert scene.published == 20
        await scene.look(BAD)  # it has to find out again
        assert scene.published == 0
