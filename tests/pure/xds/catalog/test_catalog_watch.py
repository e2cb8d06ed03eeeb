"""The watching loops on the model of Consul and on a clock that is turned by hand."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TypeVar

import pytest

from sidecar.consul.api import KVEntry, QueryResult, ServiceEntry
from sidecar.consul.blocking_query import Pace
from sidecar.election.keys import lock
from sidecar.runtime.errors import Rejected, SidecarError, Unavailable
from sidecar.traffic.document import policy_key
from sidecar.traffic.policy import DEFAULTS, Mode
from sidecar.xds.catalog.cached_state import CachedState
from sidecar.xds.catalog.catalog import Catalog, Instance, ServiceCatalog
from sidecar.xds.catalog.catalog_entries import SkippedEntry
from sidecar.xds.catalog.catalog_watch import CatalogWatch
from sidecar.xds.catalog.health_query import HealthReply
from sidecar.xds.catalog.instance_watch import RetainedInstance, WatchContext, WatchTiming
from sidecar.xds.config.endpoints import assign
from tests.support.consul_model import ConsulModel, FakeConsul, Generation, Servers
from tests.support.virtual_clock import VirtualClock, settle

T = TypeVar("T")
TIMING = WatchTiming(wait=1e6, pace=Pace(1.0, 15.0, resync=1e5))
OWN = "xds"
MINUTE = 60.0


class Consul(FakeConsul):
    """The fake, with faults."""

    made = Generation.CLASSIC  # as the fixture says
    fault: SidecarError | None = None
    consistent_fault: SidecarError | None = None
    hangs = ""
    deaf = False  # whether the agent still waits to subscribe to the servers again
    leader = True
    blind = False
    keyless = False
    unreadable = ""
    unlisted = ""
    unseen = ""
    veiled = ""
    hidden = ""
    concealed = ""
    unanswered = ""

    def __init__(self, model: ConsulModel) -> None:
        super().__init__(model, generation=self.made)
        self.datacenters: dict[str, Consul] = {}

    async def health_service(
        self,
        name: str,
        *,
        index: int = 0,
        wait: float = 0,
        consistent: bool = False,
        dc: str = "",
        streamed: bool = True,
    ) -> QueryResult[tuple[ServiceEntry, ...]]:
        if dc:
            return await self._elsewhere(name, index, wait, consistent, dc)
        self._fail(name, consistent and index == 0)
        if self.unlisted == name:
            raise Rejected("Permission denied")
        if self.unanswered == name:
            raise Unavailable("Consul: no answer in time")
        if self.hangs == name and consistent:
            await asyncio.Event().wait()
        if self.deaf and index and streamed and self.generation is Generation.STREAMING:
            await asyncio.Event().wait()
        answer = await super().health_service(name, index=index, wait=wait, streamed=streamed)
        self._fail(name, False)
        if name == self.unseen:
            answer = replace(answer, value=())
        shown = tuple(entry for entry in answer.value if entry.id != self.veiled)
        filtered = len(shown) < len(answer.value) and not answer.streamed
        return self._seen(replace(answer, value=shown, filtered=filtered), ())

    async def kv_prefix(
        self, prefix: str, *, index: int = 0, wait: float = 0, consistent: bool = False
    ) -> QueryResult[tuple[KVEntry, ...]]:
        self._fail(prefix.split("/")[1], consistent and index == 0)
        if prefix == self.hidden:
            raise Rejected("Permission denied")
        if prefix == self.unanswered:
            raise Unavailable("Consul: no answer in time")
        answer = await super().kv_prefix(prefix, index=index, wait=wait)
        self._fail(prefix.split("/")[1], False)
        return self._seen(replace(answer, value=()) if self.keyless else answer, ())

    async def kv(self, key: str, *, consistent: bool = False) -> QueryResult[KVEntry | None]:
        self._fail(key.split("/")[1], consistent)
        # A list leaves out what the token may not read; only here Consul says so.
        if self.blind or self.keyless or key in (self.hidden, self.concealed):
            raise Rejected("Permission denied")
        answer = await super().kv(key)
        return replace(answer, known_leader=self.leader)

    async def _elsewhere(
        self, name: str, index: int, wait: float, consistent: bool, dc: str
    ) -> QueryResult[tuple[ServiceEntry, ...]]:
        if dc not in self.datacenters:
            raise Unavailable(f"Consul: no path to datacenter {dc}")
        there = self.datacenters[dc]
        return await there.health_service(name, index=index, wait=wait, consistent=consistent)

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
                "Address": f"10.0.0.{ord(name[0])}",
                "Port": 8001,
                "Meta": {"sidecar_grpc_port": "9001"},
                "Checks": [{"CheckID": f"{name}:verdict", "Name": "verdict"}],
            }
        )
        self.model.set_check(f"{name}:verdict", "passing", "fine", 0.0)

    def order(self, document: str | None) -> None:
        """The policy, or none."""
        self.model.index += 1
        key = policy_key("triton")
        if document is None:
            del self.model.keys[key]
        else:
            self.model.keys[key] = KVEntry(key, document.encode(), None, self.model.index, 0)

    def lead(self, name: str, epoch: int | None = None) -> None:
        """The lock, as its holder writes it."""
        self.model.index += 1
        value = json.dumps({"instance": name, "session": name}).encode()
        index = self.model.index if epoch is None else epoch
        for key, session in ((lock.lock_key("triton"), name), (lock.epoch_key("triton"), None)):
            self.model.keys[key] = KVEntry(key, value, session, index, 1)

    async def sees_all(self, name: str) -> bool:
        return not self.blind and not self.veiled and name != self.unseen

    def _fail(self, name: str, consistent: bool) -> None:
        if self.unreadable == name:
            raise Rejected("Permission denied")
        fault = self.fault or (self.consistent_fault if consistent else None)
        if fault:
            raise fault

    def _seen(self, answer: QueryResult[T], nothing: T) -> QueryResult[T]:
        value = nothing if self.blind else answer.value
        return replace(answer, value=value, known_leader=answer.known_leader and self.leader)


@pytest.fixture(params=Generation, ids=str, autouse=True)
def generation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Generation:
    """All of it works with every Consul."""
    monkeypatch.setattr(Consul, "made", request.param)
    made: Generation = request.param
    return made


class Ears:
    """Remembers what the watches say."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.failing: set[str] = set()
        self.excluded: list[SkippedEntry] = []
        self.kept: dict[str, tuple[RetainedInstance, ...]] = {}
        self.given_up: list[tuple[str, str]] = []
        self.refused: list[str] = []
        self.stale: set[str] = set()
        self.forgotten: list[str] = []

    def answered(self, service: str, what: str) -> None:
        self.failing.discard(what)

    def failed(self, service: str, what: str, why: str) -> None:
        self.failures.append(why)
        self.failing.add(what)

    def left_out(self, service: str, found: tuple[SkippedEntry, ...]) -> None:
        self.excluded = list(found)

    def held(self, service: str, found: tuple[RetainedInstance, ...]) -> None:
        self.kept[service] = found

    def dropped(self, service: str, instance: str, why: str) -> None:
        self.given_up.append((instance, why))

    def policy_refused(self, service: str, why: str) -> None:
        self.refused.append(why)

    def unconfirmed(self, service: str, stale: bool) -> None:
        (self.stale.add if stale else self.stale.discard)(service)

    def ended(self, service: str) -> None:
        self.forgotten.append(service)


class Scene:
    """A running watch; `published` is every catalog that it has shown."""

    def __init__(
        self,
        *services: str,
        consul: Consul | None = None,
        kept: CachedState | None = None,
        zone: str | None = "",
    ) -> None:
        self.consul = consul or Consul(ConsulModel())
        # What instances say when they are asked; the others say nothing.
        self.words: dict[str, HealthReply] = {}
        self.clock = VirtualClock()
        self.ears = Ears()
        self.published: list[Catalog] = []
        means = WatchContext(self.consul, self.clock, self.ears, OWN, TIMING, self.ask)
        self.watch = CatalogWatch(services, means, kept, zone, OWN)

    async def ask(self, instance: Instance) -> HealthReply:
        return self.words.get(instance.id, HealthReply.SILENCE)

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
        await self.clock.advance(0.1)


@asynccontextmanager
async def running(scene: Scene) -> AsyncIterator[Scene]:
    tasks = [asyncio.create_task(scene.record()), asyncio.create_task(scene.watch.run())]
    await scene.clock.advance(0.1)
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
    await settle()
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
    await scene.clock.advance(10 * MINUTE)
    assert scene.ids == ["a", "b"]
    assert len(scene.published) == 1
    assert scene.ears.failures
    scene.consul.fault, scene.consul.leader, scene.consul.blind = None, True, False
    scene.consul.up("c")
    await scene.change()
    await scene.clock.advance(20.0)
    assert scene.ids == ["a", "b", "c"]


@pytest.mark.parametrize("servers", [Servers.GONE, Servers.LEADERLESS], ids=str)
@pytest.mark.parametrize("restarted", [False, True])
async def test_without_servers_all_stays_and_it_is_told(
    scene: Scene, servers: Servers, restarted: bool
) -> None:
    """Whatever the agent goes on streaming, and if it has forgotten that."""
    await scene.consul.set_servers(servers)
    if restarted:
        await scene.consul.restart_agent()
    await scene.change()
    await scene.clock.advance(10 * MINUTE)
    assert scene.ids == ["a", "b"]
    assert len(scene.published) == 1
    assert scene.ears.failing >= {"lock", "policy"}
    await scene.consul.set_servers(Servers.LEADING)
    scene.consul.up("c")
    await scene.change()
    await scene.clock.advance(40.0)
    assert scene.ids == ["a", "b", "c"]
    assert not scene.ears.failing


@pytest.mark.parametrize("fault", [Unavailable("no answer in time"), None])
async def test_after_trouble_what_is_streamed_is_not_waited_for(
    scene: Scene, fault: SidecarError | None
) -> None:
    """An agent that has lost the servers may take minutes until it hears of them again."""
    scene.consul.fault = fault
    await scene.consul.set_servers(Servers.LEADING if fault else Servers.GONE)
    await scene.change()
    await scene.clock.advance(10.0)
    scene.consul.fault, scene.consul.deaf = None, True
    await scene.consul.set_servers(Servers.LEADING)
    await scene.clock.advance(20.0)
    assert not scene.ears.failing
    scene.consul.up("c")
    await scene.change()
    assert scene.ids == ["a", "b", "c"]


async def test_a_token_that_sees_nothing_empties_nothing(scene: Scene) -> None:
    scene.consul.blind = True
    await scene.change()
    await scene.clock.advance(10 * MINUTE)
    assert scene.ids == ["a", "b"]
    assert len(scene.published) == 1


async def test_a_token_that_sees_only_ourselves_proves_nothing(scene: Scene) -> None:
    scene.consul.unseen = "triton"
    await scene.change()
    await scene.clock.advance(10 * MINUTE)
    assert scene.ids == ["a", "b"]
    assert any("service:read for 'triton'" in why for why in scene.ears.failures)


@pytest.mark.parametrize("word", [HealthReply.SERVES, None])
async def test_who_is_hidden_by_the_token_is_not_gone(
    scene: Scene, word: HealthReply | None
) -> None:
    """Later Consuls mark a list that lacks somebody, though not what is streamed."""
    for name in "cde":
        scene.consul.up(name)
    await scene.change()
    if word:
        scene.words |= {"d": word}
    scene.consul.veiled = "d"
    await scene.change()
    await scene.clock.advance(70 * MINUTE)
    assert scene.ids == [*"abcde"]
    assert any("service:read for 'triton'" in why for why in scene.ears.failures)


async def test_a_service_that_is_really_gone_is_emptied_after_a_while(scene: Scene) -> None:
    for name in "ab":
        scene.consul.model.deregister(name, 0.0)
    await scene.change()
    await scene.clock.advance(0.9 * MINUTE)
    assert scene.ids == ["a", "b"]
    await scene.clock.advance(0.2 * MINUTE)
    assert scene.ids == []
    assert scene.service.settled


async def test_the_last_good_instance_goes_only_when_its_absence_is_proven(scene: Scene) -> None:
    scene.consul.model.deregister("a", 0.0)
    scene.consul.model.set_check("b:verdict", "critical", "wrong answer", 0.0)
    scene.consul.consistent_fault = Unavailable("Consul: no quorum")
    await scene.change()
    await scene.clock.advance(10 * MINUTE)
    assert scene.ids == ["a", "b"]
    scene.consul.consistent_fault = None
    await scene.clock.advance(MINUTE)
    assert scene.ids == ["b"]


async def test_a_proof_that_fails_is_told_apart_from_the_watch(scene: Scene) -> None:
    scene.consul.consistent_fault = Unavailable("Consul: no quorum")
    for name in "ab":
        scene.consul.model.deregister(name, 0.0)
    await scene.change()
    await scene.clock.advance(MINUTE)
    assert scene.ears.failing == {"verification"}
    scene.consul.consistent_fault = None
    await scene.clock.advance(6.0)
    assert scene.ears.failing == set()


async def test_a_proof_that_takes_long_delays_no_other_service() -> None:
    scene = Scene("gone", "triton")
    scene.consul.up("xds", OWN)
    scene.consul.up("a")
    scene.consul.hangs = OWN
    async with running(scene):
        await scene.clock.advance(2 * MINUTE)
        scene.consul.up("b")
        await scene.change()
        gone, triton = scene.published[-1].services
        assert [instance.id for instance in triton.instances] == ["a", "b"]
        assert not gone.settled


async def test_an_entry_deleted_by_somebody_is_held_for_a_while(scene: Scene) -> None:
    scene.consul.model.deregister("b", 0.0)
    await scene.change()
    await scene.clock.advance(0.9 * MINUTE)
    assert scene.ids == ["a", "b"]
    assert [each.silent for each in scene.service.instances] == [False, True]
    await scene.clock.advance(0.2 * MINUTE)
    assert scene.ids == ["a"]


async def test_an_agent_that_forgot_everything_changes_nothing(scene: Scene) -> None:
    scene.consul.fault = Unavailable("Consul: connection reset")
    await scene.change()
    scene.consul.model = ConsulModel(index=1)
    scene.consul.fault = None
    scene.words |= dict.fromkeys("ab", HealthReply.SERVES)
    await scene.clock.advance(5.0)
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
    await scene.clock.advance(MINUTE)
    assert scene.service.leader is not None
    assert scene.service.leader.instance == "a"
    scene.consul.consistent_fault = None
    await scene.clock.advance(MINUTE)
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
        await scene.clock.advance(0.9 * MINUTE)
        assert not scene.service.settled
        await scene.clock.advance(0.2 * MINUTE)
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
        await scene.clock.advance(10 * MINUTE)
        assert not scene.service.settled
        scene.consul.up("a")
        await scene.change()
        assert scene.service.settled


async def test_a_service_that_may_not_be_read_does_not_silence_the_others() -> None:
    scene = Scene("secret", "triton")
    scene.consul.unreadable = "secret"
    scene.consul.up("a")
    async with running(scene):
        await scene.clock.advance(4.5)  # its token may be on its way
        assert scene.published == []
        await scene.clock.advance(1.0)
        secret, triton = scene.published[-1].services
        assert (secret.settled, triton.settled) == (False, True)


@pytest.mark.parametrize("part", ["unlisted", "hidden lock", "hidden policy", "keyless"])
async def test_it_is_enough_that_a_part_of_it_may_not_be_read(part: str) -> None:
    scene = Scene("triton", "other")
    for service in ("triton", "other"):
        scene.consul.up(service[0], service)
    match part:
        case "unlisted":
            scene.consul.unlisted = "triton"
        case "hidden lock":
            scene.consul.hidden = lock.prefix("triton")
        case "hidden policy":
            scene.consul.hidden = policy_key("triton")
        case "keyless":  # a list shows nothing, and only a question for the key is refused
            scene.consul.concealed = policy_key("triton")
    async with running(scene):
        await scene.clock.advance(5.5)
        triton, other = scene.published[-1].services
        assert (triton.settled, other.settled) == (False, True)


async def test_a_token_that_comes_in_time_costs_the_first_catalog_nothing() -> None:
    scene = Scene("secret", "triton")
    scene.consul.unreadable = "secret"
    for service in ("secret", "triton"):
        scene.consul.up(service[0], service)
    async with running(scene):
        await scene.clock.advance(2.0)
        scene.consul.unreadable = ""
        await scene.clock.advance(2.0)
        [first] = scene.published
        assert [each.settled for each in first.services] == [True, True]


@pytest.mark.parametrize("beside", [False, True])
async def test_one_that_has_only_not_answered_yet_is_waited_for(beside: bool) -> None:
    services = ("late", "triton", *(["secret"] if beside else []))
    scene = Scene(*services)
    scene.consul.unreadable = "secret"
    scene.consul.unanswered = lock.prefix("late")
    for service in services:
        scene.consul.up(service[0], service)
    async with running(scene):
        await scene.clock.advance(20.0)
        assert scene.published == []
        await scene.clock.advance(5.0)
        assert [each.settled for each in scene.published[-1].services][:2] == [False, True]


@pytest.mark.parametrize("part", ["instances", "lock"])
async def test_a_refusal_that_comes_late_is_one_too(part: str) -> None:
    scene = Scene("secret", "triton")
    scene.consul.unanswered = "secret" if part == "instances" else lock.prefix("secret")
    for service in ("secret", "triton"):
        scene.consul.up(service[0], service)
    async with running(scene):
        await scene.clock.advance(6.0)
        assert scene.published == []
        if part == "instances":
            scene.consul.unlisted = "secret"
        else:
            scene.consul.hidden = lock.prefix("secret")
        await scene.clock.advance(4.0)  # it asks after 7 s
        assert [each.settled for each in scene.published[-1].services] == [False, True]


@pytest.mark.parametrize("part", ["instances", "lock"])
async def test_what_is_refused_no_longer_is_waited_for_again(part: str) -> None:
    scene = Scene("late", "triton")
    if part == "instances":
        scene.consul.unlisted = "late"
    else:
        scene.consul.hidden = lock.prefix("late")
    scene.consul.unanswered = policy_key("late")
    for service in ("late", "triton"):
        scene.consul.up(service[0], service)
    async with running(scene):
        await scene.clock.advance(2.0)
        scene.consul.unlisted = scene.consul.hidden = ""
        await scene.clock.advance(5.0)
        assert scene.published == []
        scene.consul.unanswered = ""
        await scene.clock.advance(15.0)
        [first] = scene.published
        assert [each.settled for each in first.services] == [True, True]


async def test_an_unsettled_service_has_the_policy_that_was_read() -> None:
    scene = Scene("other", "triton")
    scene.consul.up("a", "other")
    scene.consul.order('{"mode": "strict"}')
    scene.consul.unlisted = "triton"
    async with running(scene):
        await scene.clock.advance(MINUTE)
        _, triton = scene.published[-1].services
        assert (triton.settled, triton.policy.mode) == (False, Mode.STRICT)


async def test_the_first_catalog_waits_from_the_first_answer_on() -> None:
    scene = Scene("other", "triton")
    for service in ("other", "triton"):
        scene.consul.up(service[0], service)
    scene.consul.order('{"mode": "strict"}')
    scene.consul.fault = Unavailable("Consul: connection refused")
    async with running(scene):
        await scene.clock.advance(10 * MINUTE)
        # Consul is back, and one of the watches has just begun its longest pause.
        scene.consul.fault, scene.consul.unanswered = None, policy_key("triton")
        await scene.clock.advance(15.0)
        assert scene.published == []
        scene.consul.unanswered = ""
        await scene.clock.advance(15.0)
        [first] = scene.published
        assert [each.policy.mode for each in first.services] == [DEFAULTS.mode, Mode.STRICT]


async def test_without_any_answer_there_is_no_catalog() -> None:
    scene = Scene("triton")
    scene.consul.fault = Unavailable("Consul: connection refused")
    async with running(scene):
        await scene.clock.advance(MINUTE)
        assert scene.published == []


# --- a loss, and what those who are lost say of it ----------------------------------------------


async def test_one_that_says_it_serves_is_kept_with_an_alert(scene: Scene) -> None:
    scene.words["b"] = HealthReply.SERVES
    scene.consul.model.deregister("b", 0.0)
    await scene.change()
    assert scene.ears.kept == {"triton": (RetainedInstance("b", serves=True),)}
    await scene.clock.advance(50 * MINUTE)
    assert len(scene.published) == 1
    await scene.clock.advance(11 * MINUTE)
    assert scene.ids == ["a"]  # nothing is kept for ever
    assert scene.ears.kept == {"triton": ()}
    assert [name for name, _ in scene.ears.given_up] == ["b"]


async def test_one_that_says_it_is_gone_goes_at_once(scene: Scene) -> None:
    scene.words["b"] = HealthReply.GONE
    scene.consul.model.deregister("b", 0.0)
    await scene.change()
    assert scene.ids == ["a"]


async def test_one_that_comes_back_is_not_asked_for_any_more(scene: Scene) -> None:
    scene.words["b"] = HealthReply.SERVES
    scene.consul.model.deregister("b", 0.0)
    await scene.change()
    scene.consul.up("b")
    await scene.change()
    assert scene.ears.kept == {"triton": ()}
    assert len(scene.published) == 1


async def test_all_entries_deleted_while_the_tritons_live(scene: Scene) -> None:
    scene.words |= {"a": HealthReply.SERVES, "b": HealthReply.GONE}
    for name in "ab":
        scene.consul.model.deregister(name, 0.0)
    await scene.change()
    assert scene.ids == ["a", "b"]  # until a read that can be trusted shows the same
    await scene.clock.advance(6.0)
    assert scene.ids == ["a"]
    await scene.clock.advance(30 * MINUTE)
    assert scene.ids == ["a"]


async def test_what_a_token_hid_is_found_again_without_a_change(scene: Scene) -> None:
    scene.consul.blind = True
    await scene.change()
    scene.consul.blind = False
    await scene.clock.advance(6.0)
    assert scene.ears.kept == {"triton": ()}
    assert len(scene.published) == 1


async def test_a_sudden_loss_is_proven_before_it_is_believed(scene: Scene) -> None:
    for name in "cdef":
        scene.consul.up(name)
    await scene.change()
    scene.consul.consistent_fault = Unavailable("Consul: no quorum")
    for name in "cdef":
        scene.consul.model.deregister(name, 0.0)
    await scene.change()
    await scene.clock.advance(10 * MINUTE)
    assert scene.ids == list("abcdef")
    scene.consul.consistent_fault = None
    await scene.clock.advance(6.0)
    assert scene.ids == ["a", "b"]


async def test_who_drained_before_is_believed_at_once(scene: Scene) -> None:
    for name in "ab":
        await scene.consul.maintain_service(name, "stopping in order")
    await scene.change()
    for name in "ab":
        scene.consul.model.deregister(name, 0.0)
    await scene.change()
    assert scene.ids == []


# --- the policy ---------------------------------------------------------------------------------


async def test_without_a_document_the_policy_is_as_by_default(scene: Scene) -> None:
    assert scene.service.policy == DEFAULTS


async def test_a_policy_is_followed(scene: Scene) -> None:
    scene.consul.order('{"mode": "strict"}')
    await scene.change()
    assert scene.service.policy.mode is Mode.STRICT
    scene.consul.order(None)
    await scene.change()
    assert scene.service.policy == DEFAULTS


async def test_a_bad_policy_is_ignored_and_told_once(scene: Scene) -> None:
    scene.consul.order('{"mode": "strict"}')
    await scene.change()
    scene.consul.order('{"mode": "lenient"}')
    await scene.change()
    await scene.change()
    assert scene.service.policy.mode is Mode.STRICT
    [why] = scene.ears.refused
    assert "mode: expected" in why
    scene.consul.order('{"mode": "strict"}')
    await scene.change()
    assert scene.ears.refused == [why, ""]


async def test_a_policy_that_is_hidden_stays(scene: Scene) -> None:
    scene.consul.order('{"mode": "strict"}')
    await scene.change()
    scene.consul.blind = True
    await scene.change()
    await scene.clock.advance(10 * MINUTE)
    assert scene.service.policy.mode is Mode.STRICT
    assert "Permission denied" in scene.ears.failures


async def test_a_token_that_lost_only_the_keys_moves_no_policy(scene: Scene) -> None:
    scene.consul.order('{"mode": "strict"}')
    await scene.change()
    scene.consul.keyless = True
    await scene.change()
    await scene.clock.advance(10 * MINUTE)
    assert scene.service.policy.mode is Mode.STRICT
    assert scene.service.leader is not None
    scene.consul.keyless = False
    scene.consul.order(None)
    await scene.change()
    await scene.clock.advance(20.0)
    assert scene.service.policy == DEFAULTS


async def test_a_policy_is_not_believed_gone_by_servers_that_know_nobody(scene: Scene) -> None:
    scene.consul.order('{"mode": "strict"}')
    await scene.change()
    scene.consul.model.services.clear()
    scene.consul.order(None)
    await scene.change()
    assert scene.service.policy.mode is Mode.STRICT
    assert any("nothing proves" in why for why in scene.ears.failures)


async def test_at_the_start_keys_that_are_hidden_are_not_taken_for_absent() -> None:
    scene = Scene("triton")
    scene.consul.up("a")
    scene.consul.order('{"mode": "strict"}')
    scene.consul.keyless = True
    async with running(scene):
        await scene.clock.advance(MINUTE)
        assert scene.published == []
        scene.consul.keyless = False
        await scene.clock.advance(20.0)
        assert (scene.service.settled, scene.service.policy.mode) == (True, Mode.STRICT)


async def test_a_service_is_unsettled_until_its_policy_is_known() -> None:
    scene = Scene("triton")
    scene.consul.up("a")
    scene.consul.hidden = policy_key("triton")
    async with running(scene):
        assert scene.published == []
        scene.consul.hidden = ""
        await scene.clock.advance(20.0)
        assert scene.service.settled


async def test_what_lies_beside_the_policy_is_not_taken_for_it(scene: Scene) -> None:
    key = policy_key("triton") + "-draft"
    scene.consul.model.keys[key] = KVEntry(key, b"garbage", None, 99, 0)
    await scene.change()
    assert (scene.service.policy, scene.ears.refused) == (DEFAULTS, [])


FOLLOWED = '{"affinity": {"sequence_header": "x-sequence"}}'
FOLLOWED_STRICTLY = '{"mode": "strict", "affinity": {"sequence_header": "x-sequence"}}'


async def ordered(scene: Scene, document: str) -> int:
    """A policy that has been seen; gives its ModifyIndex."""
    scene.consul.order(document)
    index = scene.consul.model.index
    await scene.change()
    return index


async def test_how_long_sequences_have_been_followed_is_known(scene: Scene) -> None:
    first = await ordered(scene, FOLLOWED)
    assert (scene.service.since.written, scene.service.since.followed) == (first, first)
    second = await ordered(scene, FOLLOWED_STRICTLY)
    assert (scene.service.since.written, scene.service.since.followed) == (second, first)
    off = await ordered(scene, '{"mode": "strict"}')
    assert scene.service.since.followed == off
    on = await ordered(scene, FOLLOWED_STRICTLY)
    assert scene.service.since.followed == on
    await ordered(scene, '{"mode": "lenient"}')  # is not in force
    assert scene.service.since.followed == on


async def test_what_a_control_plane_did_not_see_may_have_been_another_policy(scene: Scene) -> None:
    first = await ordered(scene, FOLLOWED)
    for document, index in ((None, first), (FOLLOWED_STRICTLY, None)):
        scene.consul.fault = Unavailable("Consul: connection refused")
        await scene.change()
        if document:
            scene.consul.order(document)
            index = scene.consul.model.index
        scene.consul.fault = None
        await scene.clock.advance(20.0)
        assert scene.service.since.followed == index


async def test_envoys_that_were_told_of_no_policy_have_followed_no_sequence() -> None:
    """Its service is not settled, as Consul refuses to show the policy.

    Where that happens again there may be sequences from in between.
    """
    scene = Scene("triton", "other")
    scene.consul.up("a")
    scene.consul.up("b", "other")
    scene.consul.order(FOLLOWED)
    found = {scene.consul.model.index}
    for life in range(1, 3):
        if life > 1:
            scene = Scene("triton", "other", consul=scene.consul)
            await scene.clock.advance(MINUTE)
        scene.consul.hidden = policy_key("triton")
        async with running(scene):
            await scene.clock.advance(MINUTE)
            [before, _] = scene.published[-1].services
            assert not before.settled
            scene.consul.hidden = ""
            await scene.clock.advance(20.0)
            assert scene.service.settled
            found.add(scene.service.since.followed)
        assert len(found) == 1 + life


# --- other datacenters, and the own zone --------------------------------------------------------


@asynccontextmanager
async def federated() -> AsyncIterator[Scene]:
    """`a` here, `a` and `b` in dc2, which the policy names."""
    scene = Scene("triton")
    for name in ("xds", "a"):
        scene.consul.up(name, OWN if name == "xds" else "triton")
    there = scene.consul.datacenters["dc2"] = Consul(ConsulModel())
    for name in "ab":
        there.up(name)
    scene.consul.order('{"locality": {"datacenters": ["dc2"]}}')
    async with running(scene):
        yield scene


async def test_instances_of_other_datacenters_are_known_apart() -> None:
    async with federated() as scene:
        found = [(each.id, each.datacenter) for each in scene.service.instances]
        assert found == [("a", ""), ("dc2/a", "dc2"), ("dc2/b", "dc2")]


async def test_a_datacenter_that_cannot_be_reached_freezes_its_own_part_only() -> None:
    async with federated() as scene:
        there = scene.consul.datacenters.pop("dc2")
        await there.wake()
        scene.consul.up("c")
        await scene.change()
        await scene.clock.advance(10 * MINUTE)
        assert scene.ids == ["a", "c", "dc2/a", "dc2/b"]
        assert "Consul: no path to datacenter dc2" in scene.ears.failures


async def test_our_own_entry_proves_nothing_about_another_datacenter() -> None:
    async with federated() as scene:
        there = scene.consul.datacenters["dc2"]
        there.model.services.clear()
        await there.wake()
        await scene.clock.advance(10 * MINUTE)
        assert scene.ids == ["a", "dc2/a", "dc2/b"]
        there.up("consul", "consul")  # its servers are seen
        await there.wake()
        await scene.clock.advance(2 * MINUTE)
        assert scene.ids == ["a"]


async def test_a_datacenter_is_watched_for_as_long_as_the_policy_names_it() -> None:
    async with federated() as scene:
        scene.consul.order("{}")
        await scene.change()
        assert scene.ids == ["a"]
        assert scene.ears.forgotten == ["triton@dc2"]
        scene.consul.order('{"locality": {"datacenters": ["dc2"]}}')
        await scene.change()
        assert scene.ids == ["a", "dc2/a", "dc2/b"]


async def test_the_own_zone_is_that_of_the_node_unless_it_is_set() -> None:
    for zone, expected in ((None, "west"), ("east", "east")):
        scene = Scene("triton", zone=zone)
        scene.consul.up("a")
        scene.consul.up(OWN, OWN)
        entry = scene.consul.model.services[OWN]
        scene.consul.model.services[OWN] = replace(entry, node_meta={"zone": "west"})
        async with running(scene):
            assert scene.published[-1].zone == expected


async def test_the_own_zone_is_found_soon_and_kept() -> None:
    scene = Scene("triton", zone=None)
    scene.consul.up("a")
    async with running(scene):
        assert scene.published[-1].zone == ""
        await scene.clock.advance(3.0)
        in_zone(scene, "west")
        await scene.clock.advance(0.6)
        assert scene.published[-1].zone == "west"
        state = scene.watch.state.value
    scene.consul.model.services.pop(OWN)
    later = Scene("triton", consul=scene.consul, kept=state, zone=None)
    async with running(later):
        assert {catalog.zone for catalog in later.published} == {"west"}
        in_zone(later, "east")  # it was moved meanwhile
        await later.clock.advance(5.0)
        assert later.published[-1].zone == "east"
    set_anew = Scene("triton", consul=scene.consul, kept=state, zone="north")
    async with running(set_anew):
        assert set_anew.published[-1].zone == "north"


def in_zone(scene: Scene, zone: str) -> None:
    """Our own entry, on a node in a zone."""
    scene.consul.up(OWN, OWN)
    entry = scene.consul.model.services[OWN]
    scene.consul.model.services[OWN] = replace(entry, node_meta={"zone": zone})


# --- what an earlier life knew ------------------------------------------------------------------


async def past() -> tuple[Consul, CachedState]:
    """A Consul, and what a control plane kept that has ended."""
    scene = Scene("triton")
    for name in ("xds", "a", "b"):
        scene.consul.up(name, OWN if name == "xds" else "triton")
    scene.consul.lead("a")
    scene.consul.order('{"mode": "strict"}')
    async with running(scene):
        state = scene.watch.state.value
    assert state is not None
    return scene.consul, state


async def test_without_consul_what_was_known_is_published() -> None:
    consul, state = await past()
    consul.fault = Unavailable("Consul: connection refused")
    scene = Scene("triton", consul=consul, kept=state)
    async with running(scene):
        await scene.clock.advance(60 * MINUTE)
        [catalog] = scene.published
        [service] = catalog.services
        assert service.settled
        assert service.leader is not None
        assert (service.leader.instance, service.policy.mode) == ("a", Mode.STRICT)
        assert scene.ids == ["a", "b"]
        assert scene.ears.stale == {"triton"}
        consul.fault = None
        await scene.clock.advance(20.0)
        assert len(scene.published) == 1
        assert scene.ears.stale == set()


@pytest.mark.parametrize("meanwhile", [(), ("{}", FOLLOWED)])
async def test_a_restart_continues_the_sequences_of_a_policy_that_has_not_changed(
    meanwhile: tuple[str, ...],
) -> None:
    scene = Scene("triton")
    scene.consul.up("a")
    async with running(scene):
        expected = await ordered(scene, FOLLOWED)
        await ordered(scene, FOLLOWED_STRICTLY)
        before, state = scene.service.since, scene.watch.state.value
    assert before.followed == expected
    for document in meanwhile:
        scene.consul.order(document)
        expected = scene.consul.model.index
    later = Scene("triton", consul=scene.consul, kept=state)
    async with running(later):
        assert later.published[0].services[0].since == before
        await later.clock.advance(20.0)
        assert later.service.since.followed == expected


async def test_a_restart_into_an_emptied_catalog_is_protected() -> None:
    consul, state = await past()
    consul.model.services.clear()
    scene = Scene("triton", consul=consul, kept=state)
    scene.words |= {"a": HealthReply.SERVES}
    async with running(scene):
        await scene.clock.advance(10 * MINUTE)
        assert scene.ids == ["a", "b"]
        scene.consul.up("xds", OWN)
        await scene.clock.advance(10.0)
        assert scene.ids == ["a"]  # b has said nothing for long


async def test_one_that_was_missing_before_is_asked_before_it_is_given_up() -> None:
    consul, state = await past()
    consul.model.deregister("b", 0.0)
    missing = {"b": 1_700_000_000 - 100}
    kept = replace(state, kept={"triton": replace(state.kept["triton"], missing=missing)})
    scene = Scene("triton", consul=consul, kept=kept)
    scene.words["b"] = HealthReply.SERVES
    async with running(scene):
        await scene.clock.advance(10 * MINUTE)
        assert scene.ids == ["a", "b"]
        assert scene.ears.kept["triton"] == (RetainedInstance("b", serves=True),)
    scene = Scene("triton", consul=consul, kept=kept)
    async with running(scene):  # it says nothing
        await scene.clock.advance(0.9 * MINUTE)
        assert scene.ids == ["a", "b"]
        await scene.clock.advance(0.2 * MINUTE)
        assert scene.ids == ["a"]


async def test_what_changed_meanwhile_is_published_in_one_piece() -> None:
    consul, state = await past()
    consul.lead("b")
    await consul.maintain_service("a", "stopping in order")
    consul.hidden = lock.prefix("triton")
    scene = Scene("triton", consul=consul, kept=state)
    async with running(scene):
        consul.hidden = ""
        await scene.clock.advance(20.0)
        before, after = (catalog.services[0] for catalog in scene.published)
        assert [each.usable for each in before.instances] == [True, True]
        assert [each.usable for each in after.instances] == [False, True]
        assert after.leader is not None
        assert after.leader.instance == "b"


async def test_a_watch_that_stays_silent_does_not_hold_the_others_back_for_long() -> None:
    consul, state = await past()
    await consul.maintain_service("a", "stopping in order")
    consul.hidden = lock.prefix("triton")
    scene = Scene("triton", consul=consul, kept=state)
    async with running(scene):
        await scene.clock.advance(3.0)
        assert [each.usable for each in scene.service.instances] == [False, True]
        assert scene.ears.stale == {"triton"}


async def test_an_older_epoch_is_not_believed_after_a_restart_either() -> None:
    consul, state = await past()
    consul.lead("b", epoch=1)
    consul.consistent_fault = Unavailable("Consul: no quorum")
    scene = Scene("triton", consul=consul, kept=state)
    async with running(scene):
        await scene.clock.advance(MINUTE)
        assert scene.service.leader is not None
        assert scene.service.leader.instance == "a"


async def test_what_is_unsettled_is_kept_as_it_was() -> None:
    consul, state = await past()
    consul.blind = True
    scene = Scene("triton", consul=consul, kept=state)
    async with running(scene):
        await scene.clock.advance(10 * MINUTE)
        kept = scene.watch.state.value
        assert kept is not None
        assert kept.kept["triton"].instances == state.kept["triton"].instances


async def test_the_watches_of_all_services_share_a_budget_of_retries() -> None:
    names = [f"s{number}" for number in range(70)]
    scene = Scene(*names)
    scene.consul.up("xds", OWN)
    for name in names:
        scene.consul.up(f"of-{name}", name)
    scene.consul.fault = Unavailable("Consul: no answer in time")
    async with running(scene):
        await scene.clock.advance(10 * MINUTE)
        # Without it, 210 watches would ask more than 8,000 times; `running` takes 0.1 s.
        assert len(scene.ears.failures) <= 210 + 20 + 10 * (10 * MINUTE + 0.1)
        scene.consul.fault = None
        await scene.clock.advance(5.0)
        assert all(service.settled for service in scene.published[-1].services)
