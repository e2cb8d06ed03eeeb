"""Canaries that Triton's response cache cannot answer, and detection of cached answers.

Acts: random.
"""

import random
from collections.abc import Callable

from sidecar.events import CanaryCached
from sidecar.health.canary.definition import Canary
from sidecar.health.canary.judge import fault
from sidecar.health.canary.variation import NUMBERS, Variation, VariationEffect, advice
from sidecar.health.probes.server_probe import ProbeContext
from sidecar.health.progress import Counted, Progress
from sidecar.runtime.errors import Rejected
from sidecar.triton.api import Answer, ModelDescription


class CacheProbe:
    """Sends a canary past the response cache.

    `answered` is whether the cache gave the last answer, which then proves nothing.
    """

    def __init__(self, context: ProbeContext) -> None:
        self.answered = False
        self._context = context
        self._variation = Variation()
        self._reported = False

    def reloaded(self) -> None:
        """Forget how an earlier load of the model reacted to variations."""
        self._variation = Variation()

    async def send(
        self,
        canary: Canary,
        described: ModelDescription,
        patience: float,
        once_more: Callable[[], None],
    ) -> tuple[Canary, Answer]:
        """An answer, and the canary to check it against.

        A varied canary, which the cache cannot answer, is sent first. If the model answers it
        differently, the canary itself is sent as well, after a call of `once_more`: the cache may
        answer that one, but the first has shown whether the model is alive.
        """
        triton = self._context.triton
        varied = self._vary(canary, described)
        if varied is None:
            return canary, await triton.infer(canary.request(described), patience)
        try:
            answer = await triton.infer(varied.request(described), patience)
        except Rejected:
            if not self._variation.on_trial:
                raise
            self._variation = self._variation.after(VariationEffect.REJECTED)
        else:
            if self._variation.on_trial:
                wrong = fault(varied, described, answer)
                self._variation = self._variation.after(
                    VariationEffect.DIFFERENT if wrong else VariationEffect.EQUIVALENT
                )
            if self._variation.effect is not VariationEffect.DIFFERENT:
                return varied, answer
        once_more()
        return canary, await triton.infer(canary.request(described), patience)

    def note(self, canary: Canary, before: Counted | None, progress: Progress) -> None:
        """Record an answer of a model with a cache; its counters were `before` it."""
        worked = progress.counted
        idle = before is not None and worked is not None and worked.work == before.work
        self.answered = idle and progress.known
        if self.answered and not self._reported:
            self._reported = True
            self._context.hook(CanaryCached(canary.model, advice(canary.model)))

    def forget(self) -> None:
        """The model no longer has a cache."""
        self.answered = self._reported = False

    def _vary(self, canary: Canary, described: ModelDescription) -> Canary | None:
        """A canary that Triton's cache cannot answer; None if none is needed or possible."""
        if not described.cached:
            return None
        self._variation = self._variation.of(described)
        return self._variation.apply(canary, random.randrange(NUMBERS))  # noqa: S311
