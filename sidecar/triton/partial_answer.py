"""The answer to a question while its responses come in."""

import time
from typing import Any

from sidecar.runtime.errors import AnswerTooLarge, Rejected
from sidecar.triton import answers, tensors
from sidecar.triton.api import Answer, Tensor


class PartialAnswer:
    """The responses to a question as they come in, and when they came.

    Of more than `max_answer` bytes nothing is held.
    """

    def __init__(self, max_answer: int) -> None:
        self._began = time.monotonic()
        self._left = max_answer
        self._first: float | None = None
        self._count = 0
        self._step: list[dict[str, Tensor]] = []

    def age(self) -> float:
        """Seconds since the question was asked."""
        return time.monotonic() - self._began

    def next_step(self) -> None:
        """Forget the outputs of the step before."""
        self._step.clear()

    def add(self, response: Any) -> None:
        """Take a response in; one without outputs only says that it was the last."""
        if not response.outputs and not response.raw_output_contents:
            return
        self._left -= sum(map(len, response.raw_output_contents))
        if self._left < 0:
            raise AnswerTooLarge("the responses are larger together than the answer may be")
        self._first = self.age() if self._first is None else self._first
        self._count += 1
        self._step.append(answers.outputs(response))

    def answer(self) -> Answer:
        """The answer, now that all has come."""
        seconds = self.age()
        try:
            outputs = tensors.joined(self._step)
        except ValueError as error:
            raise Rejected(f"the responses do not fit together: {error}") from error
        first = seconds if self._first is None else self._first
        return Answer(outputs, self._count, first, seconds)
