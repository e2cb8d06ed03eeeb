"""tinychat: a streaming (decoupled) text model for Triton's Python backend.

Every answer takes max_tokens x delay_ms, streamed or not, like a model that computes token after
token. execute() only decodes; all waiting and sending happens on one thread (generations.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils
from exchange import (
    CANCEL_POLL,
    Question,
    answer,
    bad_request,
    cancelled,
    default_delay_ms,
    load_generator,
    max_generations,
    read,
    refusal,
)
from generations import Full, Generations
from generator import Generator
from sampling import MAX_DURATION_S, BadRequest

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """What Triton's Python backend looks for."""

    def initialize(self, args: Mapping[str, str]) -> None:
        self._delay_ms = default_delay_ms(args)
        self._generator = load_generator()
        self._generations = Generations(max_generations(args), _log)

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                question = read(request, self._delay_ms)
                self._generations.submit(_Answer(self._generator, question, sender).step)
            except BadRequest as error:
                sender.send(bad_request(error), flags=FINAL)
            except Full as error:
                sender.send(refusal(str(error), pb_utils.TritonError.UNAVAILABLE), flags=FINAL)

    def finalize(self) -> None:
        # Triton finalizes after the last answer; the bound is for the case that it does not.
        self._generations.close(MAX_DURATION_S)


class _Answer:
    """One generation in progress: a step function for Generations."""

    def __init__(self, generator: Generator, question: Question, sender: Any) -> None:
        self._sender = sender
        self._sampling = question.sampling
        self._delay = question.sampling.delay
        self._left = question.sampling.max_tokens
        self._pieces = generator.pieces(question.prompt, question.sampling)
        if not question.stream:
            self._delay *= self._left
            self._left = 1
            self._pieces = iter(("".join(self._pieces),))
        self._due: float | None = None
        self._look = 0.0

    def step(self, now: float) -> float | None:
        """Send what is due at `now`; return the time of the next step, None after the last."""
        if self._due is None:
            self._due = now + self._delay
            self._look = now + CANCEL_POLL
        if now >= self._look:  # not at every token: each look is a round trip to the server
            if self._sender.is_cancelled():
                self._sender.send(cancelled(), flags=FINAL)
                return None
            self._look = now + CANCEL_POLL
        if now >= self._due:
            self._left -= 1
            piece = answer(next(self._pieces), self._sampling)
            self._sender.send(piece, flags=0 if self._left else FINAL)
            self._due += self._delay
        return min(self._due, self._look) if self._left else None


def _log(error: Exception) -> None:
    pb_utils.Logger.log_error(f"tinychat: a generation broke: {error!r}")
