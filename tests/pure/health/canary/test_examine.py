"""One canary request: every way in which it can fail has its own reason."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace

import pytest

from sidecar.health.canary.definition import Budgets, Canary
from sidecar.health.canary.derived_canary import DerivedCanary
from sidecar.health.canary.examine import Examined, examine, examine_all, reach
from sidecar.health.canary.expectations import Equals
from sidecar.runtime.errors import Overloaded, Rejected, SidecarError, Unavailable
from sidecar.triton.api import Answer, InferenceRequest, ModelDescription, TensorSpec
from sidecar.triton.tensors import tensor
from sidecar.verdict.evidence import Reason
from tests.support.fake_triton import FakeModel, FakeTriton
from tests.support.virtual_clock import VirtualClock

RIGHT = Answer({"out": tensor("INT32", [1], [4])}, first=0.1, seconds=0.2)
CANARY = Canary("m", ({"in": tensor("INT32", [1], [2])},), (Equals("out", (4,)),))


def fake() -> tuple[FakeTriton, FakeModel]:
    tensors = (TensorSpec("in", "INT32", (1,)),), (TensorSpec("out", "INT32", (1,)),)
    described = ModelDescription("m", ("3",), inputs=tensors[0], outputs=tensors[1])
    model = FakeModel(described, RIGHT)
    return FakeTriton(VirtualClock(), model, max_answer=1000), model


async def test_the_right_answer_passes() -> None:
    triton, _ = fake()
    found = await examine(triton, CANARY)
    assert found.finding.ok
    assert found.answer == RIGHT


@pytest.mark.parametrize(
    ("change", "canary", "reason", "detail"),
    [
        ({"reply": Answer({"out": tensor("INT32", [1], [5])})}, {}, "CANARY_WRONG_ANSWER", "got 5"),
        ({"reply": Answer({})}, {}, "CANARY_WRONG_ANSWER", "out"),
        ({"reply": Answer({"out": tensor("INT32", [999], [4] * 999)})}, {}, "CANARY_TOO_LARGE", ""),
        ({"error": Rejected("boom")}, {}, "CANARY_FAILED", "boom"),
        ({"error": Unavailable("gone")}, {}, "CANARY_FAILED", "gone"),
        ({"error": Overloaded("no room")}, {}, "MODEL_BUSY", "no room"),
        ({"ready": False}, {}, "MODEL_NOT_READY", "Triton reports that it is not ready"),
        ({}, {"model": "n"}, "MODEL_NOT_READY", "NOT_FOUND: Request for unknown model: 'n'"),
        ({}, {"version": "2"}, "MODEL_WRONG_VERSION", "expected version 2, loaded is 3"),
        ({}, {"steps": ({},)}, "CONFIG", "found no in"),
        (
            {},
            {"budgets": Budgets(warn=0.15)},
            "CANARY_SLOW",
            "answered after 0.2 s, above latency.warn (0.15 s)",
        ),
        (
            {},
            {"budgets": Budgets(warn=0.05, fail=0.1)},
            "CANARY_TOO_SLOW",
            "answered after 0.2 s, above latency.warn (0.05 s), latency.fail (0.1 s)",
        ),
        (
            {},
            {"budgets": Budgets(first_fail=0.05)},
            "CANARY_TOO_SLOW",
            "began to answer after 0.1 s, above latency.first_fail (0.05 s)",
        ),
        (
            {},
            {"timeout": 0.15, "budgets": Budgets(warn=5.0, fail=10.0)},
            "CANARY_LATE",
            "answered after 0.2 s, above timeout (0.15 s)",
        ),
        (
            {},
            {"timeout": 0.15, "budgets": Budgets(fail=0.1, first_warn=0.01)},
            "CANARY_TOO_SLOW",
            "latency.fail (0.1 s); began to answer after 0.1 s, above latency.first_warn (0.01 s)",
        ),
        (
            {"reply": replace(RIGHT, outputs={})},
            {"timeout": 0.15, "budgets": Budgets(fail=0.1)},
            "CANARY_WRONG_ANSWER",
            "out",
        ),
    ],
)
async def test_a_failure_has_its_reason(
    change: dict[str, object], canary: dict[str, object], reason: str, detail: str
) -> None:
    triton, model = fake()
    for name, value in change.items():
        setattr(model, name, value)
    finding = (await examine(triton, replace(CANARY, **canary))).finding  # type: ignore[arg-type]
    assert finding.reason is Reason(reason)
    assert detail in finding.detail
    assert not finding.ok


async def test_a_late_answer_is_waited_for_as_long_as_its_budgets_allow() -> None:
    triton, model = fake()
    model.reply = replace(RIGHT, seconds=0.0)
    model.delay = 3.0
    clock = triton.clock
    assert isinstance(clock, VirtualClock)
    for fail, reason, detail in (
        (4.0, Reason.CANARY_LATE, "answered after 3 s, above timeout (2 s)"),
        (None, Reason.CANARY_UNANSWERED, "no answer within 2 s"),
    ):
        asked = replace(CANARY, timeout=2.0, budgets=Budgets(fail=fail))
        found = await _with_time(clock, examine(triton, asked))
        assert (found.finding.reason, found.finding.detail) == (reason, detail)
        assert (found.answer is not None) == (fail is not None)


async def test_a_frozen_server_is_not_an_unanswered_canary() -> None:
    triton, model = fake()
    triton.frozen = True
    clock = triton.clock
    assert isinstance(clock, VirtualClock)
    found = await _with_time(clock, examine(triton, CANARY))
    assert found.finding.reason is Reason.MODEL_UNANSWERED
    assert not model.asked


async def _with_time(
    clock: VirtualClock, examining: Coroutine[object, object, Examined]
) -> Examined:
    asking = asyncio.create_task(examining)
    await clock.advance(20.0)
    return await asking


async def test_a_model_without_a_canary_gets_a_derived_one() -> None:
    triton, model = fake()
    one, derived = await examine_all(triton, [CANARY], {"m": DerivedCanary()})
    assert one.finding.ok
    assert not one.derived
    assert derived.finding.ok
    assert derived.derived
    assert model.asked[1].steps[0]["in"].array.tolist() == [1]
    (unknown,) = await examine_all(triton, [], {"n": DerivedCanary()})
    assert unknown.finding.reason is Reason.MODEL_NOT_READY
    assert unknown.derived


@pytest.mark.parametrize("given", [[CANARY], []])
@pytest.mark.parametrize("loads", [1, 2, 3])
async def test_a_model_that_is_reloaded_during_a_canary_is_probed_again(
    loads: int, given: list[Canary]
) -> None:
    triton, model = fake()
    left = loads

    def reply(question: InferenceRequest) -> Answer:
        nonlocal left
        if not left:
            return RIGHT
        left -= 1
        version = str(int(model.description.versions[0]) + 1)
        model.description = replace(model.description, versions=(version,))
        raise Unavailable("UNAVAILABLE: it is unloading")

    model.reply = reply
    (found,) = await examine_all(triton, given, {} if given else {"m": DerivedCanary()})
    assert found.finding.ok == (loads < 3)
    assert len(model.asked) == min(loads + 1, 3)


async def test_an_unchanged_model_is_probed_once() -> None:
    triton, model = fake()
    model.error = Rejected("INTERNAL: no")
    assert (await examine(triton, CANARY)).finding.reason is Reason.CANARY_FAILED
    assert len(model.asked) == 1


@pytest.mark.parametrize("error", [Unavailable("refused"), Rejected("UNIMPLEMENTED")])
async def test_an_unreachable_server_is_not_a_finding(error: SidecarError) -> None:
    triton, _ = fake()
    await reach(triton, "host:1")
    triton.error = error
    with pytest.raises(Unavailable, match=f"Triton at host:1 cannot be reached: {error}"):
        await reach(triton, "host:1")
