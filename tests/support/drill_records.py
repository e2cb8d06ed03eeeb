"""Records of drills that never ran: three instances, 200 requests a second, a fault at 8 s."""

import random
from collections.abc import Iterator
from dataclasses import replace

from sidecar.drill.record import Environment, Figures, ProcessTrend, Record, Run, Violation
from sidecar.drill.samples import Mark, Outcome, Sample

INSTANCES = ("triton-0", "triton-1", "triton-2")
CLIENTS = 16
LENGTH, CRASH, RESTORED, BACK = 20.0, 8.0, 12.0, 14.5
TAKEN = CRASH + 0.048  # when the next instance has the lock
SERVES = CRASH + 0.071

ENVIRONMENT = Environment(
    began="2026-01-02T03:04:05Z",
    command="triton-sidecar drill all --mesh .mesh --repeat 1",
    machine="8 cores of AMD EPYC 9354, 64 GiB, Linux 6.1",
    mesh="3 instances, 1 Envoy, 3 Consul servers",
    seed=7,
    load="200 requests/s, open loop, 16 clients, 4 streams",
    versions={"consul": "1.23.0", "envoy": "1.40.0", "triton": "2.60.0", "triton-sidecar": "0.9"},
)
OBJECTIVES = {"availability": 0.999, "detection": 1.0, "rto": 1.0, "longest_gap": 2.0}


def record(*runs: Run) -> Record:
    """A record of these runs; without any, of one of each kind."""
    made = runs or (crash(), wrong_answers(), aborted(), skipped())
    return Record(ENVIRONMENT, OBJECTIVES, made)


def soaked(*runs: Run) -> Record:
    """The same of a soak, in which a process grew."""
    processes = (
        ProcessTrend("envoy", 1, 600.0, 80 << 20, 1 << 20, 0.0, 1 << 20, 10, 12),
        ProcessTrend("drill sidecar.drill.load", 9, 0.0, 50 << 20),
        ProcessTrend("xds", 1, 600.0, 80 << 20, 40 << 20, 30 << 20, 6 << 20, 10, 12),
    )
    objectives = OBJECTIVES | {"memory_growth": 16.0}
    return replace(record(*runs), objectives=objectives, processes=processes)


def crash(round_: int = 1, rate: int = 200, seed: int = 7, slower: float = 1.0) -> Run:
    """The primary is killed; nothing fails."""
    samples = tuple(_samples(random.Random(seed), rate, slower))
    slowest = max(each.took for each in samples if each.due >= CRASH and each.kind == "unary")
    figures = Figures(
        detection=0.012 * slower,
        decision=0.048 * slower,
        publication=0.055 * slower,
        acked=0.063 * slower,
        rto=0.071 * slower,
        recovered=BACK - CRASH,
        sent=int(rate * (LENGTH - CRASH)),
        retried=9,
        p50=0.004 * slower,
        p99=0.011 * slower,
        p99_before=0.010,
        slowest=slowest,
        longest_gap=0.19 * slower,
        streams=12,
        streams_moved=4,
        budget_used=0.0,
    )
    hypothesis = "No request fails. Another instance is primary within 1 s, and streams move to it."
    title = "Triton of the primary is killed"
    return Run(
        scenario="crash",
        title=title,
        hypothesis=hypothesis,
        round=round_,
        victim=INSTANCES[0],
        status="passed",
        figures=figures,
        marks=marks(),
        samples=samples,
    )


def wrong_answers(round_: int = 1) -> Run:
    """The primary answers wrongly for a moment, and some requests fail: not passed."""
    spoilt = tuple(map(_spoilt, enumerate(_samples(random.Random(8), 200, 1.0))))
    bad = [each.outcome for each in spoilt]
    figures = Figures(
        detection=1.31,
        decision=1.36,
        rto=1.4,
        recovered=6.5,
        sent=2400,
        failed=bad.count("failed"),
        wrong=bad.count("wrong"),
        p50=0.004,
        p99=0.013,
        p99_before=0.011,
        slowest=2.1,
        longest_gap=2.4,
        budget_used=bad.count("failed") / 4.0,
        availability=1 - bad.count("failed") / 4000,
        load_lag=0.6,
    )
    violations = (
        Violation("detection", "at most 1 s", "1.31 s"),
        Violation("failed", "none", f"{figures.failed} of 2,400"),
        Violation("availability", "at least 99.9 % answered", f"{figures.availability:.2%}"),
        Violation("longest_gap", "at most 2 s", "2.4 s, client 5"),
    )
    hypothesis = "The canary finds wrong answers; until then clients may get some, and none fails."
    return Run(
        scenario="wrong-answers",
        title="A model of the primary answers wrongly",
        hypothesis=hypothesis,
        round=round_,
        victim=INSTANCES[0],
        status="failed",
        figures=figures,
        violations=violations,
        marks=marks(1.31, "expected `blue`, found `<b>grün</b>`"),
        samples=spoilt,
    )


def aborted() -> Run:
    """A stop condition ended it."""
    began = (
        Mark(CRASH, "injected", INSTANCES[0], "SIGSTOP"),
        Mark(9.5, "aborted", reason="error_rate"),
    )
    samples = tuple(each for each in _samples(random.Random(9), 200, 1.0) if each.due < 9.5)
    why = "12 % of the requests of the last second failed, and the stop condition is 5 %"
    figures = Figures(
        sent=300, p50=0.004, p99=0.012, p99_before=0.011, slowest=0.02, longest_gap=0.1
    )
    return Run(
        scenario="freeze",
        title="Triton of the primary is frozen",
        hypothesis="No request fails, and a frozen Triton is not restarted.",
        round=1,
        victim=INSTANCES[0],
        status="aborted",
        code="error_rate",
        reason=why,
        figures=figures,
        marks=began,
        samples=samples,
    )


def skipped() -> Run:
    """Not possible on this mesh."""
    why = "it needs several Consul servers, and this mesh has one"
    title, hypothesis = "Consul's leader is killed", "Nothing happens to requests."
    return Run("consul-leader", title, hypothesis, 1, "", "skipped", "needs", why)


def flapping(faults: int = 20) -> Run:
    """More events than have room for a label each."""
    each = (LENGTH - CRASH) / faults
    every = [
        replace(mark, at=CRASH + number * each + mark.at - CRASH)
        for number in range(faults)
        for mark in marks()[:6]
    ]
    samples = tuple(_samples(random.Random(10), 50, 1.0))
    return Run(
        "flapping",
        "The primary flaps",
        "No request fails.",
        1,
        INSTANCES[0],
        "passed",
        marks=tuple(every),
        samples=samples,
    )


def marks(detected: float = 0.012, detail: str = "") -> tuple[Mark, ...]:
    """The events of a failover whose detection took so many seconds; `detail` is the verdict's."""
    shift = CRASH + detected
    first, second = INSTANCES[0], INSTANCES[1]
    return (
        Mark(CRASH, "injected", first, "SIGKILL"),
        Mark(shift, "verdict", first, detail, status="critical", reason="PORT_UNREACHABLE"),
        Mark(shift + 0.036, "primary", second, epoch=42),
        Mark(shift + 0.043, "published", second, epoch=42),
        Mark(shift + 0.051, "acked", second, epoch=42),
        Mark(shift + 0.059, "traffic", second),
        Mark(RESTORED, "restored", first),
        Mark(RESTORED + 2.1, "verdict", first, status="passing"),
        Mark(BACK, "recovered"),
    )


def _samples(chance: random.Random, rate: int, slower: float) -> Iterator[Sample]:
    for number in range(int(LENGTH * rate)):
        due = number / rate
        took = 0.004 * slower * chance.lognormvariate(0, 0.35)
        if chance.random() < 0.004:
            took *= chance.uniform(4, 30)
        if CRASH <= due < SERVES:
            took += SERVES - due
        client = number % CLIENTS
        yield Sample("unary", client, due, took, "answered", _answering(due + took, chance))
    for number in range(int(LENGTH / 2)):
        due = 2.0 * number
        end = _answering(due + 1.4, chance)
        yield Sample("stream", CLIENTS + number % 4, due, 1.3, "answered", end)


def _answering(at: float, chance: random.Random) -> str:
    if chance.random() < 0.1:
        return INSTANCES[2]  # the split of the traffic
    return INSTANCES[0] if at < CRASH else INSTANCES[1]


def _spoilt(numbered: tuple[int, Sample]) -> Sample:
    number, sample = numbered
    since = sample.due - CRASH
    if not 0 <= since < 1.4 or sample.kind == "stream":
        return sample
    outcome: Outcome = "wrong" if number % 3 else "answered"
    took, detail = sample.took, "expected `blue`, found `grün`" if number % 3 else ""
    if since > 1.2 and number % 2:
        outcome, took, detail = "failed", 2.0 + 0.1 * (number % 2), "UNAVAILABLE: upstream reset"
    where = "" if outcome == "failed" else INSTANCES[0]
    return Sample(sample.kind, sample.client, sample.due, took, outcome, where, detail)
