"""An answer in progress: collects the responses to an inference request.

Acts: time.
"""

import time
from typing import Any

from sidecar.runtime.errors import AnswerTooLarge, Rejected
from sidecar.triton import answers, tensors
from sidecar.triton.api import Answer, Tensor


class PartialAnswer:
    """Collects responses and their times, up to `max_answer` bytes in all."""

    def __init__(self, max_answer: int) -> None:
        self._began = time.monotonic()
        self._left = max_answer
        self._first: float | None = None
        self._count = 0
        self._step: list[dict[str, Tensor]] = []

    def age(self) -> float:
        """Seconds since the request was sent."""
        return time.monotonic() - self._began

    def next_step(self) -> None:
        """Drop the outputs of the previous step."""
        self._step.clear()

    def add(self, response: Any) -> None:
        """Add a response; a response without outputs only marks the end.

        Raises:
            AnswerTooLarge: the responses together exceed `max_answer`.
        """
        if not response.outputs and not response.raw_output_contents:
            return
        self._left -= sum(map(len, response.raw_output_contents))
        if self._left < 0:
            raise AnswerTooLarge("the responses are larger together than the answer may be")
        self._first = self.age() if self._first is None else self._first
        self._count += 1
        self._step.append(answers.outputs(response))

    def answer(self) -> Answer:
        """The complete answer.

        Raises:
            Rejected: the responses do not fit together.
        """
        seconds = self.age()
        try:
            outputs = tensors.joined(self._step)
        except ValueError as error:
            raise Rejected(f"the responses do not fit together: {error}") from error
        first = seconds if self._first is None else self._first
        return Answer(outputs, self._count, first, seconds)
