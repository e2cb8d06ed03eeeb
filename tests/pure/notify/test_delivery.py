"""The loop of one target on a manual clock: what is sent when, and what is logged about it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic import SecretStr

from sidecar.events import Event, NotificationDropped, RequestFailed
from sidecar.notify.backlog import LIMIT
from sidecar.notify.delivery import Delivery
from sidecar.notify.documents import RoleChange, Sender, VerdictChange
from sidecar.runtime.errors import Rejected, SidecarError, Unavailable
from sidecar.runtime.timestamps import timestamp
from sidecar.settings.tables.notify import NotifySettings
from tests.support.virtual_clock import VirtualClock, settle

SENDER = Sender("triton", "triton-0")
BEGIN = VirtualClock().wall()
URL = SecretStr("http://target.invalid/")


def role(epoch: int) -> RoleChange:
    return RoleChange(SENDER, BEGIN, "standby", "primary", epoch, "")


def verdict(state: str) -> VerdictChange:
    return VerdictChange(SENDER, BEGIN, "passing", state, state == "passing", "MODEL_HUNG", "")


class Bench:
    """A target whose requests end as `answer` says; `sent` are the documents it has accepted."""

    def __init__(self, settings: NotifySettings) -> None:
        self.clock = VirtualClock()
        self.began = self.clock.now()
        self.answer: SidecarError | None = None
        self.attempts: list[float] = []
        self.sent: list[Any] = []
        self.events: list[Event] = []
        self.target = Delivery("t", settings.receiver, self.clock, self.events.append, self.post)

    async def post(self, body: bytes) -> None:
        self.attempts.append(self.clock.now() - self.began)
        if self.answer:
            raise self.answer
        self.sent.append(json.loads(body))

    def dropped(self) -> list[NotificationDropped]:
        return [each for each in self.events if isinstance(each, NotificationDropped)]


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Bench]:
    bench = Bench(NotifySettings(url=URL, **settings))
    task = asyncio.create_task(bench.target.run())
    await settle()
    yield bench
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


def epochs(bench: Bench) -> list[int]:
    return [each["epoch"] for each in bench.sent if "epoch" in each]


async def test_changes_are_delivered_in_order() -> None:
    async with running() as bench:
        for epoch in range(3):
            bench.target.put(role(epoch))
        settled_before = bench.target.settled
        await settle()
        assert epochs(bench) == [0, 1, 2]
        assert (settled_before, bench.target.settled) == (False, True)
        assert bench.events == []


async def test_only_the_configured_subjects_are_delivered() -> None:
    async with running(on=("verdict",)) as bench:
        bench.target.put(role(1))
        bench.target.put(verdict("critical"))
        await settle()
        assert [each["event"] for each in bench.sent] == ["verdict_change"]


async def test_the_intervals_between_attempts_grow() -> None:
    async with running() as bench:
        bench.answer = Unavailable("answered 500")
        bench.target.put(role(1))
        await bench.clock.advance(40)
        assert bench.attempts == [0, 1, 3, 7, 15, 31]
        assert bench.events[0] == RequestFailed("notify", "t", bench.answer)
        bench.answer = None
        await bench.clock.advance(30)
        assert epochs(bench) == [1]
        bench.target.put(role(2))
        await settle()
        assert epochs(bench) == [1, 2]


async def test_a_rejection_is_final() -> None:
    async with running() as bench:
        bench.answer = Rejected("answered 400")
        bench.target.put(role(1))
        await bench.clock.advance(600)
        assert len(bench.attempts) == 1
        assert bench.events == [NotificationDropped("t", "role: standby → primary", "answered 400")]


async def test_a_target_that_is_back_gets_the_present_state() -> None:
    async with running(retries=1) as bench:
        bench.answer = Unavailable("answered 503")
        for epoch in range(50):
            bench.target.put(role(epoch))
            bench.target.put(verdict("critical" if epoch % 2 else "passing"))
            await bench.clock.advance(600)
        bench.answer = None
        await bench.clock.advance(600)
        assert epochs(bench)[-1] == 49
        assert [each["after"] for each in bench.sent if "serving" in each][-1] == "critical"
        assert len(bench.sent) + len(bench.dropped()) == 100
        assert len(bench.sent) <= LIMIT + 1


async def test_a_change_that_is_never_accepted_does_not_delay_the_other_subject() -> None:
    async with running(retries=0) as bench:
        take = bench.post

        async def only_verdicts(body: bytes) -> None:
            bench.answer = Unavailable("answered 500") if b'"role_change"' in body else None
            await take(body)

        bench.target._post = only_verdicts
        bench.target.put(role(1))
        bench.target.put(verdict("critical"))
        await bench.clock.advance(60)
        assert [each["event"] for each in bench.sent] == ["verdict_change"]
        assert bench.dropped() == []
        # And it does not retry faster because two changes wait.
        assert len(bench.attempts) < 10


async def test_an_alert_is_repeated_while_it_lasts() -> None:
    async with running(kind="alertmanager", resend=60) as bench:
        bench.target.put(verdict("critical"))
        await bench.clock.advance(30)
        bench.target.put(role(3))
        await bench.clock.advance(100)
        assert bench.attempts == [0, 30, 60, 120]
        assert all(len(body) == 1 for body in bench.sent)
        ends = [body[0]["endsAt"] for body in bench.sent if "role" not in body[0]["labels"]]
        assert ends == [timestamp(BEGIN + each + 240) for each in (0, 60, 120)]
        bench.target.put(verdict("passing"))
        await bench.clock.advance(600)
        assert bench.sent[-1][0]["endsAt"] == timestamp(BEGIN)
        assert len(bench.attempts) == 5


async def test_an_alert_is_repeated_after_a_rejection_too() -> None:
    async with running(kind="alertmanager", resend=60) as bench:
        bench.answer = Rejected("answered 401")
        bench.target.put(verdict("critical"))
        await bench.clock.advance(30)
        bench.answer = None
        await bench.clock.advance(60)
        assert [body[0]["labels"]["alertname"] for body in bench.sent] == ["TritonNotServing"]


async def test_the_end_of_an_alert_replaces_the_undelivered_alert() -> None:
    async with running(kind="alertmanager", retries=0, resend=60) as bench:
        bench.answer = Unavailable("answered 500")
        bench.target.put(verdict("critical"))
        await settle()
        bench.target.put(verdict("passing"))
        await bench.clock.advance(1)
        bench.answer = None
        await bench.clock.advance(600)
        assert [body[0]["endsAt"] for body in bench.sent] == [timestamp(BEGIN)]


async def test_an_unreachable_target_is_not_waited_for() -> None:
    async with running() as bench:
        bench.answer = Unavailable("answered 500")
        bench.target.put(role(1))
        await settle()
        assert bench.target.settled


def test_the_number_of_queued_changes_is_bounded() -> None:
    bench = Bench(NotifySettings(url=URL))
    for epoch in range(100):
        bench.target.put(role(epoch))
    assert len(bench.dropped()) == 100 - LIMIT
    assert {each.why for each in bench.dropped()} == {"too many notifications are queued"}
