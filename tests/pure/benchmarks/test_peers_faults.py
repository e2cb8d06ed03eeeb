"""When the faults of benchmarks/peers are caused."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.peers import run
from benchmarks.peers.faults import FAULTS, Fault
from benchmarks.peers.run import caused
from benchmarks.peers.site import LOADING
from sidecar.drill.injections import models
from sidecar.drill.misbehaving_models import STREAM, UNARY

_PID = 4711


class _Hosts:
    """What a freeze uses of `Hosts`."""

    def pid(self, part: str) -> int:
        assert part == "triton-0"
        return _PID


def _named(name: str) -> Fault:
    return next(one for one in FAULTS if one.name == name)


def _at_once(context: Any) -> None:
    """Enter or leave a context; fails if it waits for anything."""
    with pytest.raises(StopIteration):
        context.send(None)


@pytest.mark.parametrize("name", ["hung_model", "wrong_answers"])
def test_both_models_misbehave_at_once_and_first_the_one_that_designs_check(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered: list[tuple[str, Any]] = []
    monkeypatch.setattr(
        models, "write_control", lambda _, __, model, control: ordered.append((model, control))
    )
    hosts: Any = _Hosts()
    fault = _named(name).inject(hosts, "triton-0")
    _at_once(fault.__aenter__())
    assert [model for model, _ in ordered] == [UNARY, STREAM]
    assert all(told["fault"] and told["load_seconds"] == LOADING for _, told in ordered)
    ordered.clear()
    _at_once(fault.__aexit__(None, None, None))
    assert ordered == [(model, {"load_seconds": LOADING}) for model in (UNARY, STREAM)]


def test_a_freeze_begins_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "killpg", lambda *signalled: sent.append(signalled))
    hosts: Any = _Hosts()
    fault = _named("freeze").inject(hosts, "triton-0")
    _at_once(fault.__aenter__())
    assert sent == [(_PID, signal.SIGSTOP)]
    _at_once(fault.__aexit__(None, None, None))
    assert sent[1:] == [(_PID, signal.SIGCONT)]


@pytest.mark.parametrize(("ago", "expected"), [(None, 100.0), (5.0, 125.0)])
async def test_a_fault_was_caused_when_it_was_injected_or_when_it_says(
    ago: float | None, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter((100.0, 130.0))
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: next(now)))

    @asynccontextmanager
    async def inject(stage: object, victim: str) -> AsyncIterator[float | None]:
        yield ago

    hosts: Any = _Hosts()
    async with caused(Fault("name", "title", inject), hosts, "triton-0") as at:
        assert at == expected
