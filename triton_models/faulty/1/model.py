"""faulty: a text's answer in one response, or the fault that it has been told to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from staging import Stage, StagedError
from tensors import instance, question, refusal, response, stage_folder


class TritonPythonModel:
    """What Triton's Python backend looks for."""

    def initialize(self, args: Mapping[str, str]) -> None:
        self._stage = Stage(stage_folder(args))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            answer = self._stage.answer(question(request))
        except StagedError as error:
            return refusal(error)
        return response(answer.text, answer.vector, instance(request))
