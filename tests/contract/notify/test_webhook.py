"""Webhooks against a real HTTP server: the requests, and what follows from its answers."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sidecar.events import Event, NotificationDropped, RequestFailed, RoleChanged, VerdictChanged
from sidecar.local.planning import ports
from sidecar.notify.documents import Sender
from sidecar.notify.notifier import Notifier
from sidecar.notify.rules import HookRules, Receiver
from sidecar.notify.webhook import post
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import (
    ConfigError,
    DeadlineExceeded,
    Rejected,
    SidecarError,
    Unavailable,
)
from sidecar.settings.tables.notify import NotifySettings
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State

PRIMARY = RoleChanged("standby", "primary", 17, "the lock was free")
OK = Verdict(State.PASSING, Reason.OK)
ILL = Verdict(State.CRITICAL, Reason.CANARY_FAILED, "chat: broken pipe")


class FastClock(SystemClock):
    """A clock whose sleeps are short, so that no test waits for retries."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.02))


class Server:
    """Gives the configured answers, and repeats the last one; requests are in `bodies`."""

    def __init__(self) -> None:
        self.answers: list[web.Response | None] = []  # None: no answer
        self.headers: list[dict[str, str]] = []
        self.bodies: list[Any] = []
        self.paths: list[str] = []
        self.base = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        self.paths.append(request.path)
        self.bodies.append(json.loads(await request.read()))
        answer = self.answers.pop(0) if self.answers else web.Response()
        if answer is None:
            await asyncio.sleep(300)
        return answer or web.Response()


@asynccontextmanager
async def serving(port: int = 0) -> AsyncIterator[Server]:
    server, app = Server(), web.Application()
    app.router.add_post("/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        server.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as found:
        yield found


@pytest.fixture
def events() -> list[Event]:
    return []


def settings(url: str, **more: Any) -> Receiver:
    return NotifySettings.model_validate({"url": url, **more}).receiver


@asynccontextmanager
async def running(events: list[Event], **targets: Receiver) -> AsyncIterator[Notifier]:
    sender = Sender("triton", "triton-0")
    notifier = Notifier(HookRules(), targets, sender, FastClock(), events.append)
    tasks = [asyncio.create_task(loop()) for loop in notifier.loops().values()]
    try:
        yield notifier
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=60)
        assert all(task.cancelled() for task in tasks)


def failed(events: list[Event]) -> list[RequestFailed]:
    return [each for each in events if isinstance(each, RequestFailed)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_each_target_gets_its_own_format(server: Server, events: list[Event]) -> None:
    async with running(
        events,
        plain=settings(f"{server.base}/plain", token="hush-hush", headers={"X-Scope": "team"}),
        alerts=settings(f"{server.base}/api/v2/alerts", kind="alertmanager", on=["verdict"]),
    ) as notifier:
        notifier(PRIMARY)
        notifier(VerdictChanged(OK, ILL))
        await until(lambda: len(server.bodies) == 3)
        await notifier.settled()
    assert events == []
    by_path = list(zip(server.paths, server.bodies, strict=True))
    assert [body["event"] for path, body in by_path if path == "/plain"] == [
        "role_change",
        "verdict_change",
    ]
    (alerts,) = (body for path, body in by_path if path != "/plain")
    assert alerts[0]["labels"] == {
        "alertname": "TritonNotServing",
        "service": "triton",
        "instance": "triton-0",
        "severity": "critical",
    }
    plain = server.headers[server.paths.index("/plain")]
    assert plain["Content-Type"] == "application/json"
    assert plain["Authorization"] == "Bearer hush-hush"
    assert plain["X-Scope"] == "team"
    assert "Authorization" not in server.headers[server.paths.index("/api/v2/alerts")]


async def test_a_request_is_retried_after_each_500_until_it_succeeds(
    server: Server, events: list[Event]
) -> None:
    server.answers = [web.Response(status=500, text="no disk"), web.Response(status=500)]
    async with running(events, t=settings(server.base)) as notifier:
        notifier(PRIMARY)
        await until(lambda: len(server.bodies) == 3)
    assert server.bodies[0] == server.bodies[1] == server.bodies[2]
    failures = [(each.operation, str(each.error)) for each in failed(events)]
    assert failures == [("t", "answered 500: no disk"), ("t", "answered 500")]
    assert len(events) == 2


async def test_a_server_that_returns_after_a_long_outage_gets_the_newest_changes(
    events: list[Event],
) -> None:
    with ports.reserve(1) as (port,):
        await _come_back(port, events)


async def _come_back(port: int, events: list[Event]) -> None:
    async with running(events, t=settings(f"http://127.0.0.1:{port}", retries=1)) as notifier:
        for epoch in range(30):
            notifier(RoleChanged("standby", "primary", epoch, ""))
            notifier(VerdictChanged(OK, ILL))
        await until(lambda: len(failed(events)) > 60)
        async with serving(port) as server:
            await until(lambda: len(server.bodies) == 2)
            newest = {body["event"]: body for body in server.bodies}
    assert newest["role_change"]["epoch"] == 29
    assert newest["verdict_change"]["after"] == "critical"
    dropped = [each for each in events if isinstance(each, NotificationDropped)]
    assert len(dropped) == 58


async def test_a_rejection_is_reported_once(server: Server, events: list[Event]) -> None:
    server.answers = [web.Response(status=400, text="bad alert")]
    async with running(events, t=settings(server.base)) as notifier:
        notifier(PRIMARY)
        await until(lambda: bool(events))
        notifier(VerdictChanged(OK, ILL))
        await until(lambda: len(server.bodies) == 2)
    what = "role: standby → primary"
    assert events == [NotificationDropped("t", what, "answered 400: bad alert")]


async def test_a_stop_does_not_wait_for_a_slow_server(server: Server, events: list[Event]) -> None:
    server.answers = [None]
    async with running(events, t=settings(server.base, timeout="200s")) as notifier:
        notifier(PRIMARY)
        await until(lambda: bool(server.bodies))
    assert events == []


async def test_a_slow_target_does_not_delay_another(server: Server, events: list[Event]) -> None:
    async with serving() as slow:
        slow.answers = [None]
        targets = {"slow": settings(slow.base, timeout="200s"), "t": settings(server.base)}
        async with running(events, **targets) as notifier:
            notifier(PRIMARY)
            await until(lambda: bool(server.bodies))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, None), (202, None), (204, None),
        (302, Rejected), (400, Rejected), (401, Rejected), (404, Rejected),
        (408, Unavailable), (429, Unavailable), (500, Unavailable), (503, Unavailable),
    ],
)  # fmt: skip
async def test_the_outcome_of_each_answer(
    server: Server, status: int, kind: type[SidecarError] | None
) -> None:
    server.answers = [web.Response(status=status, headers={"Location": f"{server.base}/else"})]
    error = None
    try:
        await post(settings(server.base, token="hush-hush"), "notify.t", b"{}")
    except SidecarError as raised:
        error = type(raised)
    assert error is kind
    assert server.paths == ["/"]  # also for a redirect: the token is sent nowhere else


async def test_a_server_that_does_not_answer_times_out(server: Server) -> None:
    server.answers = [None]
    with pytest.raises(DeadlineExceeded, match=r"^no answer within 0\.2 s$"):
        await post(settings(server.base, timeout="200ms"), "notify.t", b"{}")


async def test_errors_contain_no_secrets(server: Server) -> None:
    events = "no hush-token, no hush-key, no services/hush-path"
    server.answers = [web.Response(status=403, text=events)]
    secretive = settings(
        f"{server.base}/services/hush-path", token="hush-token", headers={"X-Key": "hush-key"}
    )
    with pytest.raises(Rejected) as caught:
        await post(secretive, "notify.t", b"{}")
    assert str(caught.value) == "answered 403: no …, no …, no …"


async def test_the_error_of_an_answer_that_is_not_http_contains_no_secrets() -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"NONSENSE\r\n\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable) as caught:
            await post(settings(f"http://127.0.0.1:{port}/hush-path"), "notify.t", b"{}")
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_proxies_of_the_environment_are_not_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    await post(settings(server.base), "notify.t", b"{}")
    assert len(server.bodies) == 1


async def test_a_missing_token_file_is_a_failure_like_any_other(
    server: Server, events: list[Event], tmp_path: Path
) -> None:
    path = tmp_path / "token"
    async with running(events, t=settings(server.base, token_file=path)) as notifier:
        notifier(PRIMARY)
        await until(lambda: len(events) >= 2)
        path.write_text("new-token\n")
        await until(lambda: bool(server.bodies))
    assert server.headers[0]["Authorization"] == "Bearer new-token"
    assert all(isinstance(each, RequestFailed) for each in events)
    first = events[0]
    assert isinstance(first, RequestFailed)
    assert isinstance(first.error, ConfigError)
