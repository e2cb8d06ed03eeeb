"""One look at a canary: every way in which it can fail has its reason."""

from dataclasses import replace

import pytest

from sidecar.errors import Rejected, Unavailable
from sidecar.health.canary import Budgets, Canary
from sidecar.health.evidence import Reason
from sidecar.health.examine import examine, examine_all
from sidecar.health.expectations import Equals
from sidecar.triton_api import Answer, ModelDescription, TensorSpec
from sidecar.triton_tensors import tensor
from tests.fake_triton import FakeModel, FakeTriton
from tests.virtual_clock import VirtualClock

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
        ({"ready": False}, {}, "MODEL_NOT_READY", ""),
        ({}, {"model": "n"}, "MODEL_NOT_READY", ""),
        ({}, {"version": "2"}, "MODEL_WRONG_VERSION", "expected version 2, loaded is 3"),
        ({}, {"steps": ({},)}, "CONFIG", "found no in"),
        ({}, {"budgets": Budgets(warn=0.15)}, "CANARY_SLOW", "budget of 0.15 s"),
        ({}, {"budgets": Budgets(first_fail=0.05)}, "CANARY_TOO_SLOW", "budget of 0.05 s"),
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


async def test_a_late_answer_is_waited_for_as_long_as_its_budgets_allow() -> None:
    triton, model = fake()
    model.reply = replace(RIGHT, seconds=0.0)
    model.delay = 3.0
    clock = triton.clock
    assert isinstance(clock, VirtualClock)
    for fail, reason in ((4.0, Reason.CANARY_SLOW), (None, Reason.CANARY_UNANSWERED)):
        asked = replace(CANARY, timeout=2.0, budgets=Budgets(fail=fail))
        found = await _with_time(clock, triton, asked)
        assert found is reason


async def _with_time(clock: VirtualClock, triton: FakeTriton, canary: Canary) -> Reason:
    import asyncio

    asking = asyncio.create_task(examine(triton, canary))
    await clock.advance(10.0)
    return (await asking).finding.reason


async def test_a_model_without_a_canary_is_asked_a_derived_one() -> None:
    triton, model = fake()
    one, derived = await examine_all(triton, [CANARY], ["m"])
    assert one.finding.ok
    assert not one.derived
    assert derived.finding.ok
    assert derived.derived
    assert model.asked[1].steps[0]["in"].array.tolist() == [1]
    (unknown,) = await examine_all(triton, [], ["n"])
    assert unknown.finding.reason is Reason.MODEL_NOT_READY


async def test_a_server_that_cannot_be_reached_is_no_finding() -> None:
    triton, _ = fake()
    triton.error = Unavailable("refused")
    with pytest.raises(Unavailable):
        await examine_all(triton, [CANARY])
