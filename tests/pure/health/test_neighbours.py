"""For whom a canary may wait that is late: steps of an ensemble, and who shares a resource."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from sidecar.health.neighbours import Neighbour, held
from sidecar.runtime.errors import Overloaded, Rejected
from sidecar.triton.api import ModelDescription
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict_line import State
from tests.support.prober_bench import model, probing

FOR_EVER, A_WHILE, NOT = float("inf"), 30.0, 0.0
SINCE, LONG_AGO, LATELY = 100.0, 90.0, 105.0
BOTH = ModelDescription("both", steps=("first", "last"))
NESTED = ModelDescription("nested", steps=("both",))
SEATED = ModelDescription("seated", resources=("seat",))


def neighbour(
    name: str, moved: float | None = None, busy: float | None = None, **more: object
) -> Neighbour:
    described = ModelDescription(name)
    return Neighbour(replace(described, **more), moved, busy)  # type: ignore[arg-type]


def works(name: str, **more: object) -> Neighbour:
    return neighbour(name, LATELY, LATELY, **more)


def rests(name: str, **more: object) -> Neighbour:
    return neighbour(name, LONG_AGO, LONG_AGO, **more)


def asked_by_us(name: str, **more: object) -> Neighbour:
    return neighbour(name, LATELY, None, **more)


@pytest.mark.parametrize(
    ("described", "others", "refused", "seconds"),
    [
        (ModelDescription("alone"), [works("first")], False, NOT),
        (BOTH, [], False, NOT),
        (BOTH, [works("first"), works("last")], False, FOR_EVER),
        (BOTH, [works("first"), asked_by_us("last")], False, FOR_EVER),
        (BOTH, [asked_by_us("first"), asked_by_us("last")], False, NOT),
        (BOTH, [rests("first"), rests("last"), works("other")], False, NOT),
        (BOTH, [works("first"), rests("last")], False, A_WHILE),
        (BOTH, [works("first"), neighbour("last")], False, A_WHILE),
        (BOTH, [works("first")], False, A_WHILE),
        (BOTH, [works("first", refuses=True), rests("last")], True, FOR_EVER),
        (BOTH, [works("first"), rests("last", refuses=True)], True, NOT),
        (BOTH, [works("first", refuses=True), rests("last", refuses=True)], True, A_WHILE),
        (BOTH, [works("first"), works("last")], True, FOR_EVER),
        (NESTED, [rests("both", steps=BOTH.steps), works("first"), works("last")], False, FOR_EVER),
        (NESTED, [works("both", steps=BOTH.steps), rests("first"), rests("last")], False, NOT),
        (NESTED, [rests("both", steps=("nested",))], False, NOT),
        (SEATED, [works("other", resources=("seat", "desk"))], False, FOR_EVER),
        (SEATED, [rests("other", resources=("seat",))], False, NOT),
        (SEATED, [works("other", resources=("desk",))], False, NOT),
        (BOTH, [rests("first", resources=("seat",)), works("x", resources=("seat",))], False,
         FOR_EVER),
        (replace(BOTH, resources=("seat",)), [works("first", resources=("seat",))], False, A_WHILE),
    ],
)  # fmt: skip
def test_how_long_others_may_hold_up_a_canary(
    described: ModelDescription, others: list[Neighbour], refused: bool, seconds: float
) -> None:
    neighbours = {each.described.name: each for each in others}
    found = held(described, neighbours, SINCE, 10.0, refused)
    assert found.seconds == seconds
    assert bool(found.why) == bool(seconds)


MODELS: Mapping[str, dict[str, object]] = {
    "chat": {"steps": ("inner",)},
    "inner": {"refuses": True},
}


async def test_an_ensemble_is_busy_while_its_step_works_and_hung_when_that_stops() -> None:
    parts = [model(name, **more) for name, more in MODELS.items()]
    async with probing(*parts, served=["chat"]) as bench:
        await bench.pass_(5)
        inner = bench.triton.models["inner"]
        bench.chat.error, bench.chat.counts_errors = Overloaded("Exceeds maximum queue size"), False
        await bench.pass_(60, lambda: inner.count(successes=1, executions=1))
        assert bench.said == ["passing OK", "warning MODEL_BUSY"]
        await bench.pass_(30)
        assert (bench.verdict.state, bench.verdict.reason) == (State.CRITICAL, Reason.MODEL_HUNG)


async def test_a_model_that_waits_for_a_resource_is_busy_while_others_release_it() -> None:
    parts = [model(name, resources=("seat",)) for name in ("chat", "other")]
    async with probing(*parts, served=["chat"]) as bench:
        await bench.pass_(5)
        other = bench.triton.models["other"]
        bench.chat.hung = True
        await bench.pass_(60, lambda: other.count(successes=1, executions=1))
        assert Reason.MODEL_HUNG not in bench.found()
        assert bench.verdict.state is State.WARNING
        await bench.pass_(30)
        assert (bench.verdict.state, bench.verdict.reason) == (State.CRITICAL, Reason.MODEL_HUNG)


async def test_progress_by_the_sidecar_s_own_canaries_is_no_excuse() -> None:
    parts = [model(name, resources=("seat",)) for name in ("chat", "other")]
    async with probing(*parts) as bench:
        await bench.pass_(5)
        bench.chat.hung = True
        await bench.pass_(30)
        assert (bench.verdict.state, bench.verdict.reason) == (State.CRITICAL, Reason.MODEL_HUNG)


async def test_a_neighbour_that_cannot_be_described_is_no_excuse() -> None:
    parts = [model(name, resources=("seat",)) for name in ("chat", "other")]
    async with probing(*parts, served=["chat"]) as bench:
        await bench.pass_(5)
        other, describe = bench.triton.models["other"], bench.triton.describe

        async def refuse(model: str, timeout: float) -> ModelDescription:
            if model == "other":
                raise Rejected("UNAVAILABLE: it is being unloaded")
            return await describe(model, timeout)

        bench.triton.describe, bench.chat.hung = refuse, True  # type: ignore[method-assign]
        await bench.pass_(30, lambda: other.count(successes=1, executions=1))
        assert (bench.verdict.state, bench.verdict.reason) == (State.CRITICAL, Reason.MODEL_HUNG)
