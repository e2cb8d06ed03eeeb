"""tinychat_unary: tinychat's generator with one response per request, over ModelInfer.

generator.py, sampling.py, exchange.py and ngrams.json are tinychat's own files (symbolic links).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from exchange import (
    CANCEL_POLL,
    answer,
    bad_request,
    cancelled,
    default_delay_ms,
    load_generator,
    read,
)
from sampling import BadRequest


class TritonPythonModel:
    """What Triton's Python backend looks for."""

    def initialize(self, args: Mapping[str, str]) -> None:
        self._delay_ms = default_delay_ms(args)
        self._generator = load_generator()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            question = read(request, self._delay_ms)
        except BadRequest as error:
            return bad_request(error)
        if question.stream:
            return bad_request(BadRequest("stream: this model cannot; tinychat can"))
        text = self._generator.text(question.prompt, question.sampling)
        seconds = question.sampling.max_tokens * question.sampling.delay
        # Asking Triton about cancellation costs a round trip: only worth it when waiting.
        if seconds and not _waited(request, seconds):
            return cancelled()
        return answer(text, question.sampling)


def _waited(request: Any, seconds: float) -> bool:
    """Sleep; False as soon as the caller has cancelled."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if request.is_cancelled():
            return False
        time.sleep(min(left, CANCEL_POLL))
    return True
