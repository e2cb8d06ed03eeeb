"""Streams of the demo models: whole, empty, cut."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from sidecar.local import demo_questions


class Response:
    """A response as tritonclient shows it, with the text and the instance."""

    def __init__(self, text: str, *, final: bool) -> None:
        self._text, self._final = text, final

    def as_numpy(self, name: str) -> Any:
        assert name == "answer"
        return np.array([self._text.encode(), b"triton-7"], dtype=np.object_)

    def get_response(self) -> Any:
        final = SimpleNamespace(bool_param=self._final)
        return SimpleNamespace(parameters={"triton_final_response": final})


def client(*responses: Response) -> Any:
    """A client whose stream ends without an error after these responses."""

    async def stream_infer(*_: object, **__: object) -> AsyncIterator[tuple[Response, None]]:
        for response in responses:
            yield response, None

    return SimpleNamespace(stream_infer=stream_infer)


@pytest.mark.parametrize("responses", [(), (Response("amber", final=False),)])
async def test_a_stream_that_ends_before_its_last_response_was_cut(
    responses: tuple[Response, ...],
) -> None:
    with pytest.raises(InferenceServerException) as error:
        await demo_questions.generate_faulty(client(*responses), "Hello")
    assert error.value.status() == "CUT"


async def test_a_whole_stream_may_have_no_text() -> None:
    whole = client(Response("amber", final=False), Response(" birch", final=True))
    assert (await demo_questions.generate_faulty(whole, "Hello")).text == "amber birch"
    empty = await demo_questions.generate_faulty(client(Response("", final=True)), "Hello")
    assert (empty.text, empty.instance) == ("", "triton-7")
