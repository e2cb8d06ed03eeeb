"""Varies a canary's inputs, for a model whose answers Triton caches. Pure.

The cache only answers a request that is equal byte for byte. So the inputs are varied as little as
possible: a few floating-point numbers by less than a thousandth of their value, always the same
ones, or a text by trailing white space. A model that was never seen to answer a varied canary
correctly is not held to it: some models answer it differently, and some reject it. Then the varied
canary shows that the model is alive, and the original one whether its answer is right.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from sidecar.health.canary.definition import Canary
from sidecar.triton.api import ModelDescription, Tensor

_FRACTIONS = {"FP32": 2.0**-23, "FP64": 2.0**-40}  # the smallest step, relative
_STEPS = 2**13 - 1
_MOVED = 4  # elements at most
NUMBERS = _STEPS**_MOVED  # different variations
_BLANKS = (b" ", b"\t", b"\n")
_BLANKS_ADDED = 12
_TRIALS = 2  # answers after which the effect on the model is known


class VariationEffect(Enum):
    """How a model answers a varied canary."""

    UNKNOWN = "unknown"
    EQUIVALENT = "equivalent"  # the answer meets the canary's expectations
    DIFFERENT = "different"  # the answer is another one
    REJECTED = "rejected"  # the model rejects it, or it cannot be varied


@dataclass(frozen=True, slots=True)
class Variation:
    """The effect of varied canaries on a model with this description, after so many answers."""

    described: ModelDescription | None = None
    effect: VariationEffect = VariationEffect.UNKNOWN
    trials: int = 0

    def of(self, described: ModelDescription) -> "Variation":
        """The variation for a description; a new one starts again."""
        return self if described == self.described else Variation(described)

    def apply(self, canary: Canary, number: int) -> Canary | None:
        """The canary with inputs varied by `number`; None if it cannot or must not be varied."""
        if self.effect is VariationEffect.REJECTED:
            return None
        steps = [varied(inputs, number) for inputs in canary.steps]
        if None in steps:
            return None
        expected = () if self.effect is VariationEffect.DIFFERENT else canary.expectations
        return replace(canary, steps=tuple(filter(None, steps)), expectations=expected)

    def after(self, effect: VariationEffect) -> "Variation":
        """The variation after an answer; only the first answers decide the effect."""
        if self.trials >= _TRIALS or self.effect is VariationEffect.REJECTED:
            return self
        worse = (
            VariationEffect.DIFFERENT in (effect, self.effect)
            and effect is not VariationEffect.REJECTED
        )
        return replace(
            self, effect=VariationEffect.DIFFERENT if worse else effect, trials=self.trials + 1
        )

    @property
    def on_trial(self) -> bool:
        """Whether the effect is not decided yet."""
        return self.trials < _TRIALS


def advice(model: str) -> str:
    """The advice for the operator of a model whose canaries never reach it."""
    return (
        f"{model}: Triton's response cache answers its canary, which proves nothing about the"
        " model. Give the canary an input that can be varied (text, or a number that is no whole"
        " one), or disable response_cache in the model's configuration"
    )


def varied(inputs: Mapping[str, Tensor], number: int) -> Mapping[str, Tensor] | None:
    """The inputs with one of them slightly varied; None if none can be."""
    for name, tensor in sorted(inputs.items()):
        for found in _varied(tensor, number):
            return {**inputs, name: found}
    return None


def _varied(tensor: Tensor, number: int) -> Iterator[Tensor]:
    array = tensor.array.copy()
    flat = array.reshape(-1)
    if tensor.datatype in _FRACTIONS:
        movable = np.flatnonzero(np.isfinite(flat) & (flat != 0))
        if movable.size:
            for turn, place in enumerate(movable[:_MOVED]):
                steps = number // _STEPS**turn % _STEPS + 1
                flat[place] *= 1 + steps * _FRACTIONS[tensor.datatype]
            yield replace(tensor, array=array)
    elif tensor.datatype == "BYTES" and flat.size and _is_text(flat[0]):
        blanks = (_BLANKS[number // 3**each % 3] for each in range(_BLANKS_ADDED))
        flat[0] += b"".join(blanks)
        yield replace(tensor, array=array)


def _is_text(value: bytes) -> bool:
    try:
        return value.decode().isprintable() and bool(value)
    except UnicodeDecodeError:
        return False
