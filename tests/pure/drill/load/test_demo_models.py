"""Which demo models a load asks, if all of them are served."""

from collections.abc import Sequence

import pytest
from tritonclient.grpc import aio

from sidecar.drill.load.demo_models import demo_models
from sidecar.local import demo_questions
from sidecar.local.demo_questions import Question, RightAnswers


class Triton:
    """A client of a Triton that serves every model."""

    def __init__(self, address: str) -> None: ...

    async def __aenter__(self) -> "Triton":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def is_model_ready(self, model: str) -> bool:
        return True


@pytest.mark.parametrize("cached", [False, True])
async def test_the_model_with_cached_answers_is_asked_only_if_that_is_wanted(
    monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    asked: list[Question] = []

    async def right_answers(reference: str, questions: Sequence[Question]) -> RightAnswers:
        asked.extend(questions)
        return {}

    monkeypatch.setattr(aio, "InferenceServerClient", Triton)
    monkeypatch.setattr(demo_questions, "right_answers", right_answers)
    assert set((await demo_models("triton:8001", cached=cached)).kinds) == {"unary", "stream"}
    assert (demo_questions.ask_cached in asked) is cached
    assert {demo_questions.ask, demo_questions.ask_faulty} <= set(asked)
