"""`health.required_models = "any"`: an instance serves the models that it may."""

from dataclasses import replace

import pytest

from sidecar.verdict.evidence import SERVER, Finding, Layer, Reason
from sidecar.verdict.verdict_line import State
from tests.support.findings import (
    BUSY,
    GOOD,
    PORT,
    READY,
    RULES,
    SERVER_FINE,
    SLOW,
    WRONG,
    Round,
    Run,
    canary,
    chat,
)

ANY = replace(RULES, any_model=True)
UNLOADED = (
    *SERVER_FINE,
    Finding(Layer.MODEL, "embed", Reason.OK),
    Finding(Layer.MODEL, "chat", Reason.MODEL_NOT_READY),
    canary("embed"),
)
BOTH_WRONG = (*SERVER_FINE, *READY, *(canary(m, Reason.CANARY_FAILED) for m in ("chat", "embed")))


def after(*rounds: Round) -> tuple[State, dict[str, Reason], frozenset[str]]:
    found = Run(ANY).rounds(*rounds).last
    return found.state, dict(found.unusable), found.models


EMBED = frozenset({"embed"})


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([GOOD] * 2, (State.PASSING, {}, frozenset({"chat", "embed"}))),
        (
            [GOOD] * 2 + [WRONG] * 2,
            (State.PASSING, {"chat": Reason.CANARY_WRONG_ANSWER}, EMBED),
        ),
        ([UNLOADED] * 3, (State.PASSING, {"chat": Reason.MODEL_NOT_READY}, EMBED)),
        ([UNLOADED] * 3 + [GOOD] * 2, (State.PASSING, {}, frozenset({"chat", "embed"}))),
        # A model in warning still counts, one that may not be used does not.
        ([SLOW] * 3, (State.WARNING, {}, frozenset({"chat", "embed"}))),
        (
            [GOOD] * 2 + [BOTH_WRONG] * 2,
            (
                State.CRITICAL,
                {"chat": Reason.CANARY_FAILED, "embed": Reason.CANARY_FAILED},
                frozenset(),
            ),
        ),
    ],
)
def test_one_usable_model_is_enough(
    rounds: list[Round], expected: tuple[State, dict[str, Reason], frozenset[str]]
) -> None:
    assert after(*rounds) == expected


def test_nothing_is_served_before_one_model_is_proven() -> None:
    state, unusable, models = after(GOOD)
    assert state is State.STARTING
    assert unusable == dict.fromkeys(("chat", "embed"), Reason.NOT_PROVEN_YET)
    assert models == frozenset()


def test_a_server_that_fell_has_to_prove_each_model_again() -> None:
    state, unusable, _ = after(*[GOOD] * 2, *[PORT] * 3)
    assert state is State.CRITICAL
    assert unusable.keys() == {"chat", "embed"}


def test_the_weight_ignores_models_that_may_not_be_used() -> None:
    strained = chat(Reason.CANARY_SLOW, strain=20)
    run = Run(ANY).rounds(GOOD, GOOD, *[strained] * 3)
    assert (run.last.state, run.last.weight) == (State.WARNING, 10)
    run.rounds(WRONG, WRONG)
    assert (run.last.state, run.last.weight) == (State.PASSING, 50)


def test_server_layers_count_as_ever() -> None:
    lost = Finding(Layer.GPU, SERVER, Reason.GPU_LOST)
    state, unusable, models = after(GOOD, GOOD, (*GOOD, lost), (*GOOD, lost), (*GOOD, lost))
    assert state is State.CRITICAL
    assert unusable == {}
    assert models == frozenset()


@pytest.mark.parametrize("round_", [WRONG, BUSY, UNLOADED])
def test_all_models_are_required_by_default(round_: Round) -> None:
    found = Run(RULES).rounds(GOOD, GOOD, *[round_] * 4).last
    assert found.unusable == ()
    assert found.state is not State.PASSING
