"""Which other models may delay a canary: steps of an ensemble, and models that share a resource."""

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


def busy(name: str, **more: object) -> Neighbour:
    return neighbour(name, LATELY, LATELY, **more)


def idle(name: str, **more: object) -> Neighbour:
    return neighbour(name, LONG_AGO, LONG_AGO, **more)


def only_our_canary(name: str, **more: object) -> Neighbour:
    return neighbour(name, LATELY, None, **more)


@pytest.mark.parametrize(
    ("described", "others", "refused", "seconds"),
    [
        (ModelDescription("alone"), [busy("first")], False, NOT),
        (BOTH, [], False, NOT),
        (BOTH, [busy("first"), busy("last")], False, FOR_EVER),
        (BOTH, [busy("first"), only_our_canary("last")], False, FOR_EVER),
        (BOTH, [only_our_canary("first"), only_our_canary("last")], False, NOT),
        (BOTH, [idle("first"), idle("last"), busy("other")], False, NOT),
        (BOTH, [busy("first"), idle("last")], False, A_WHILE),
        (BOTH, [busy("first"), neighbour("last")], False, A_WHILE),
        (BOTH, [busy("first")], False, A_WHILE),
        (BOTH, [busy("first", refuses=True), idle("last")], True, FOR_EVER),
        (BOTH, [busy("first"), idle("last", refuses=True)], True, NOT),
        (BOTH, [busy("first", refuses=True), idle("last", refuses=True)], True, A_WHILE),
        (BOTH, [busy("first"), busy("last")], True, FOR_EVER),
        (NESTED, [idle("both", steps=BOTH.steps), busy("first"), busy("last")], False, FOR_EVER),
        (NESTED, [busy("both", steps=BOTH.steps), idle("first"), idle("last")], False, NOT),
        (NESTED, [idle("both", steps=("nested",))], False, NOT),
        (SEATED, [busy("other", resources=("seat", "desk"))], False, FOR_EVER),
        (SEATED, [idle("other", resources=("seat",))], False, NOT),
        (SEATED, [busy("other", resources=("desk",))], False, NOT),
        (BOTH, [idle("first", resources=("seat",)), busy("x", resources=("seat",))], False,
         FOR_EVER),
        (replace(BOTH, resources=("seat",)), [busy("first", resources=("seat",))], False, A_WHILE),
    ],
)  # fmt: skip
def test_how_long_other_models_may_delay_a_canary(
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


async def test_an_ensemble_is_busy_while_its_step_works_and_hung_when_the_step_stops() -> None:
    parts = [model(name, **more) for name, more in MODELS.items()]
    async with probing(*parts, served=["chat"]) as bench:
        await bench.pass_(5)
        inner = bench.triton.models["inner"]
        bench.chat.error, bench.chat.counts_errors = Overloaded("Exceeds maximum queue size"), False
        await bench.pass_(60, lambda: inner.count(successes=1, executions=1))
        assert bench.verdicts == ["passing OK", "warning MODEL_BUSY"]
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
