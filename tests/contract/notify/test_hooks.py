"""Hooks that are real programs: what they read, and that none of them blocks the sidecar."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sidecar.events import Event, HookRan, NotificationDropped, RoleChanged, VerdictChanged
from sidecar.notify.backlog import LIMIT
from sidecar.notify.documents import Sender
from sidecar.notify.notifier import Notifier
from sidecar.runtime.clock import SystemClock
from sidecar.settings.tables.notify import HooksSettings
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State

PRIMARY = RoleChanged("standby", "primary", 17, "the lock was free")
OK = Verdict(State.PASSING, Reason.OK)
ILL = Verdict(State.CRITICAL, Reason.CANARY_FAILED, "chat: broken pipe")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(events: list[Event], **hooks: Any) -> AsyncIterator[Notifier]:
    settings = HooksSettings.model_validate(hooks)
    notifier = Notifier(
        settings.rules, {}, Sender("triton", "triton-0"), SystemClock(), events.append
    )
    tasks = [asyncio.create_task(loop()) for loop in notifier.loops().values()]
    try:
        yield notifier
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=60)
        assert all(task.cancelled() for task in tasks)


def ended(events: list[Event]) -> list[HookRan]:
    return [each for each in events if isinstance(each, HookRan)]


def script(folder: Path, text: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", f"cd '{folder}'; {text}")


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def events() -> list[Event]:
    return []


async def test_each_hook_reads_the_changes_that_it_subscribes_to(
    tmp_path: Path, events: list[Event]
) -> None:
    async with running(
        events,
        on_role_change=script(tmp_path, "cat >> role"),
        on_verdict_change=script(tmp_path, "cat >> verdict"),
    ) as notifier:
        notifier(PRIMARY)
        notifier(VerdictChanged(OK, ILL))
        notifier(VerdictChanged(ILL, Verdict(State.CRITICAL, Reason.MODEL_HUNG)))
        notifier(VerdictChanged(ILL, OK))
        await notifier.settled()
    assert all(each.error == "" for each in ended(events))
    assert len(events) == 3
    document = json.loads((tmp_path / "role").read_text())
    assert document["event"] == "role_change"
    assert document["epoch"] == 17
    states = [json.loads(line)["after"] for line in (tmp_path / "verdict").read_text().splitlines()]
    assert states == ["critical", "passing"]


async def test_a_hook_runs_once_at_a_time_and_in_order(tmp_path: Path, events: list[Event]) -> None:
    command = script(tmp_path, "mkdir busy && cat >> epochs && sleep 0.05 && rmdir busy")
    async with running(events, on_role_change=command) as notifier:
        for epoch in range(5):
            notifier(RoleChanged("standby", "primary", epoch, ""))
        await notifier.settled()
    assert [each.error for each in ended(events)] == [""] * 5
    lines = (tmp_path / "epochs").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2, 3, 4]


async def test_a_hanging_hook_is_killed_with_its_process_group(
    tmp_path: Path, events: list[Event]
) -> None:
    command = script(tmp_path, "echo help; sleep 300 & echo $! > new; mv new child; wait")
    async with running(events, on_role_change=command, timeout="5s") as notifier:
        notifier(PRIMARY)
        await until(lambda: bool(events))
    (event,) = ended(events)
    assert event.hook == "on_role_change"
    assert event.error == "/bin/sh: did not end within 5 s: help"
    await until(lambda: not alive(int((tmp_path / "child").read_text())))


async def test_processes_that_a_hook_leaves_running_are_not_waited_for(
    tmp_path: Path, events: list[Event]
) -> None:
    # It keeps the hook's standard input and output open.
    command = script(tmp_path, "setsid sleep 300 & echo $! > new; mv new child")
    async with running(events, on_role_change=command, timeout="50s") as notifier:
        notifier(PRIMARY)
        await until(lambda: bool(events))
    assert [each.error for each in ended(events)] == [""]
    child = int((tmp_path / "child").read_text())
    assert alive(child)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


async def test_a_hook_may_ignore_its_standard_input(tmp_path: Path, events: list[Event]) -> None:
    async with running(events, on_verdict_change=("/bin/true",)) as notifier:
        notifier(VerdictChanged(OK, Verdict(State.CRITICAL, Reason.MODEL_HUNG, "x" * 10**6)))
        await notifier.settled()
    assert [each.error for each in ended(events)] == [""]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("echo no pager; exit 3", "/bin/sh: ended with 3: no pager"),
        ("kill -9 $$", "/bin/sh: was killed by SIGKILL"),
        ("kill -40 $$", "/bin/sh: was killed by signal 40"),
        ("head -c 1000000 /dev/zero | tr '\\0' x; exit 1", "/bin/sh: ended with 1: …" + "x" * 300),
    ],
)
async def test_a_failed_hook_is_reported(
    tmp_path: Path, events: list[Event], text: str, error: str
) -> None:
    async with running(events, on_role_change=script(tmp_path, text)) as notifier:
        notifier(PRIMARY)
        await notifier.settled()
    assert [each.error for each in ended(events)] == [error]


async def test_a_missing_program_is_reported_each_time(tmp_path: Path, events: list[Event]) -> None:
    async with running(events, on_role_change=(str(tmp_path / "gone"),)) as notifier:
        notifier(PRIMARY)
        notifier(RoleChanged("primary", "standby", 0, ""))
        await notifier.settled()
    assert len(ended(events)) == 2
    assert all("gone: cannot be started" in each.error for each in ended(events))


async def test_of_too_many_changes_the_newest_are_kept(tmp_path: Path, events: list[Event]) -> None:
    command = script(tmp_path, "while [ ! -e go ]; do sleep 0.05; done; cat >> epochs")
    async with running(events, on_role_change=command, timeout="100s") as notifier:
        for epoch in range(40):
            notifier(RoleChanged("standby", "primary", epoch, ""))
        (tmp_path / "go").touch()
        await notifier.settled()
    dropped = [each for each in events if isinstance(each, NotificationDropped)]
    assert len(dropped) == 40 - LIMIT
    assert (dropped[0].target, dropped[0].what) == ("on_role_change", "role: standby → primary")
    lines = (tmp_path / "epochs").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(40 - LIMIT, 40))


async def test_a_stop_kills_a_running_hook(tmp_path: Path, events: list[Event]) -> None:
    command = script(tmp_path, "trap '' TERM; sleep 300 & echo $! > new; mv new child; wait")
    async with running(events, on_role_change=command, timeout="300s") as notifier:
        notifier(PRIMARY)
        await until((tmp_path / "child").exists)
        waiting = asyncio.create_task(notifier.settled())
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
    assert events == []
    await until(lambda: not alive(int((tmp_path / "child").read_text())))


async def test_queueing_a_change_never_blocks(tmp_path: Path, events: list[Event]) -> None:
    """No loop takes anything from the queue."""
    hooks = HooksSettings(on_role_change=script(tmp_path, "sleep 300")).rules
    notifier = Notifier(hooks, {}, Sender("triton", "t"), SystemClock(), events.append)
    for epoch in range(1000):
        notifier(RoleChanged("standby", "primary", epoch, ""))
    assert len(events) == 1000 - LIMIT
