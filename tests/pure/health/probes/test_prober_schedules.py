"""The probing loops under schedules of faults that Hypothesis draws, and what always holds."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.events import Probed, VerdictChanged
from sidecar.runtime.errors import DeadlineExceeded, Refused, Rejected, Unavailable
from sidecar.verdict.evidence import Finding, Layer, Level, Reason
from sidecar.verdict.verdict import SERVING
from sidecar.verdict.verdict_line import State
from tests.support.fake_triton import FakeModel
from tests.support.prober_bench import (
    SETTINGS,
    TEXT,
    Bench,
    canary,
    demanding,
    load_anew,
    model,
    probing,
    says,
)
from tests.support.soak import times

NAMES = ("chat", "embed")
# Longer than the wait for a lost canary, and than any hold and window.
HEALING = 60.0
# These prove that a model answers, even if slowly.
ANSWERS = (Reason.OK, Reason.CANARY_SLOW)

Act = Callable[[Bench, FakeModel], None]


def _kill(bench: Bench, _: FakeModel) -> None:
    bench.triton.error = Refused("Connection refused")
    bench.triton.lose_connections()


def _restart(bench: Bench, _: FakeModel) -> None:
    bench.triton.error, bench.triton.frozen = None, False
    for each in bench.triton.models.values():
        load_anew(each)


def _pause(bench: Bench, _: FakeModel) -> None:
    bench.clock._now += 45.0  # the sidecar or its machine was stopped


def _another_version(_: Bench, found: FakeModel) -> None:
    load_anew(found, versions=(str(int(found.description.versions[0]) + 1),))


def _set(**values: object) -> Act:
    def act(_: Bench, found: FakeModel) -> None:
        for name, value in values.items():
            setattr(found, name, value)

    return act


def _server(**values: object) -> Act:
    def act(bench: Bench, _: FakeModel) -> None:
        for name, value in values.items():
            setattr(bench.triton, name, value)

    return act


def _configure(**changes: object) -> Act:
    def act(bench: Bench, _: FakeModel) -> None:
        changed = SETTINGS.model_copy(update=changes)
        bench.prober.configure([canary(name) for name in NAMES], changed.rules)

    return act


def _order(why: str | None) -> Act:
    return lambda bench, _: bench.prober.assessment.maintain(why)


ACTS: dict[str, Act] = {
    "freeze": _server(frozen=True),
    "thaw": _server(frozen=False),
    "kill": _kill,
    "restart": _restart,
    "lose the connection": lambda bench, _: bench.triton.lose_connections(),
    "not ready": _server(ready=False),
    "ready": _server(ready=True),
    "no statistics": _server(statistics_error=DeadlineExceeded("no answer in time")),
    "statistics": _server(statistics_error=None),
    "hang": _set(hung=True),
    "go on": _set(hung=False, delay=0.0),
    "slow": _set(delay=2.5),
    "very slow": _set(delay=15.0),
    "unload": _set(ready=False),
    "load": _set(ready=True),
    "another version": _another_version,
    "wrong": _set(reply=says("nonsense")),
    "right": _set(reply=says("right")),
    "fail": _set(error=Rejected("INTERNAL: no")),
    "refuse": _set(error=Unavailable("UNAVAILABLE: no")),
    "accept": _set(error=None),
    "clients": lambda _, found: found.count(successes=3, executions=3),
    "failing clients": lambda _, found: found.count(failures=3),
    "pause": _pause,
    "reload": _configure(rise=3, canary_rate=5.0),
    "reload again": _configure(),
    "stuck port": lambda bench, _: bench.stick("connect"),
    "stuck model": lambda bench, _: bench.stick("model_ready"),
    "stuck canary": lambda bench, _: bench.stick("infer"),
    "stuck counters": lambda bench, _: bench.stick("statistics"),
    "release": lambda bench, _: bench.release(),
    "maintenance": _order("new disks"),
    "no maintenance": _order(None),
}


@dataclass
class Watcher:
    """Reads events as they arrive, and knows what each model has proven since it last failed."""

    bench: Bench
    read: int = 0
    proofs: dict[str, int] = field(default_factory=dict)

    def look(self) -> None:
        for event in self.bench.events[self.read :]:
            if isinstance(event, Probed):
                for finding in event.findings:
                    self._note(finding)
            if isinstance(event, VerdictChanged) and event.after.fitness in SERVING:
                if event.before.fitness not in SERVING:
                    assert all(self.proofs.get(name, 0) >= 1 for name in NAMES), event.after
                assert event.after.models == (
                    frozenset() if event.after.state is State.MAINTENANCE else set(NAMES)
                )
        many = len(self.bench.events) - self.read
        assert many < 300, f"{many} events in a second at most"
        self.read = len(self.bench.events)
        for each in self.bench.triton.models.values():
            assert each.in_flight <= 1

    def _note(self, finding: Finding) -> None:
        if finding.layer is not Layer.CANARY:
            return
        if finding.level is Level.CRITICAL:
            self.proofs[finding.subject] = 0
        elif finding.reason in ANSWERS:
            self.proofs[finding.subject] = self.proofs.get(finding.subject, 0) + 1


def repair(bench: Bench) -> None:
    for act in ("thaw", "ready", "statistics", "no maintenance", "reload again"):
        ACTS[act](bench, bench.chat)
    bench.release()
    bench.triton.error = None
    for each in bench.triton.models.values():
        for act in ("go on", "load", "right", "accept"):
            ACTS[act](bench, each)


moments = st.sampled_from([0.1, 0.3, 1.0, 2.5, 7.0])
schedules = st.lists(
    st.tuples(st.sampled_from(sorted(ACTS)), st.sampled_from(NAMES), moments), max_size=12
)


@pytest.mark.timeout(900)  # half a minute of one core on a slow, shared machine
@settings(max_examples=times(20, soaking=400))
@given(schedules)
def test_only_proven_models_are_served_and_all_pass_once_all_faults_are_over(
    schedule: list[tuple[str, str, float]],
) -> None:
    async def run() -> None:
        async with probing(*map(model, NAMES)) as bench:
            watcher = Watcher(bench)
            await bench.pass_(2, watcher.look)
            for act, name, seconds in schedule:
                ACTS[act](bench, bench.triton.models[name])
                await bench.pass_(seconds, watcher.look)
            repair(bench)
            for _ in range(int(HEALING)):
                await bench.clock.advance(1.0)
                watcher.look()
            assert bench.verdict.state is State.PASSING, bench.verdict.summary
            assert len(asyncio.all_tasks()) < 60

    asyncio.run(run())


@settings(max_examples=times(15, soaking=150))
@given(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from([0.0, 0.3, 1.7, 3.1]), moments),
        max_size=10,
    ),
    st.sampled_from([None, 0.5]),
)
def test_a_correct_model_is_never_wrong_however_often_it_is_reloaded(
    loads: list[tuple[str, float, float]], rate: float | None
) -> None:
    """Each time with other inputs, and while canaries wait or are in flight."""

    async def run() -> None:
        both = [demanding(model(name)) for name in NAMES]
        paced = SETTINGS.model_copy(update={"canary_rate": rate})
        async with probing(*both, canaries={}, settings=paced) as bench:
            await bench.pass_(2)
            for number, (name, delay, seconds) in enumerate(loads, 2):
                found = bench.triton.models[name]
                found.delay = delay
                inputs = (replace(TEXT, shape=(number,)),)
                load_anew(found, versions=(str(number),), inputs=inputs)
                await bench.pass_(seconds)
            await bench.clock.advance(HEALING / 3)
            assert all(reason.level is not Level.CRITICAL for reason in bench.found())
            assert bench.verdict.models == set(NAMES)

    asyncio.run(run())
