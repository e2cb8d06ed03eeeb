"""faulty_stream: the answer of faulty, one response for each word (decoupled)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils
from staging import Stage, StagedError
from tensors import instance, question, refusal, response, stage_folder

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """What Triton's Python backend looks for."""

    def initialize(self, args: Mapping[str, str]) -> None:
        self._stage = Stage(stage_folder(args))

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            self._respond(request)

    def _respond(self, request: Any) -> None:
        sender = request.get_response_sender()
        try:
            answer = self._stage.answer(question(request))
        except StagedError as error:
            sender.send(refusal(error), flags=FINAL)
            return
        # A stream without a response would look as if it was cut.
        named, words = instance(request), answer.words or ("",)
        last = len(words) - 1
        # A space before each word but the first: put together they are the unary answer.
        for place, word in enumerate(words):
            text, vector = (f" {word}", answer.vector[:0]) if place else (word, answer.vector)
            flags = FINAL if place == last else 0
            sender.send(response(text, vector, named), flags=flags)
