"""A canary for a model whose answers Triton caches: a question that was not asked before. Pure.

The cache answers what is equal to the byte. So the inputs are varied by as little as can be: a
few numbers with a fraction by less than a thousandth of themselves, always the same ones, or a text
by white space after it. A model that was never seen to answer such a question rightly is not held
to it: not all of them take that for the same question, and some refuse it. Then the answer shows
that it lives, and the question as it is whether it is right.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from sidecar.health.canary.definition import Canary
from sidecar.triton.api import ModelDescription, Tensor

_FRACTIONS = {"FP32": 2.0**-23, "FP64": 2.0**-40}  # a smallest step, relative
_STEPS = 2**13 - 1
_MOVED = 4  # numbers at most
NUMBERS = _STEPS**_MOVED  # by how many numbers a question varies
_BLANKS = (b" ", b"\t", b"\n")
_BLANKS_ADDED = 12
_TRIALS = 2  # answers after which it is known how a model takes it


class VariationEffect(Enum):
    """How a model takes what is varied."""

    UNKNOWN = "unknown"
    EQUIVALENT = "equivalent"  # it meets the canary's expectations
    DIFFERENT = "different"  # it answers something else
    REJECTED = "rejected"  # it refuses it, or nothing of it can vary


@dataclass(frozen=True, slots=True)
class Variation:
    """How a model as described takes what is varied, and how many answers told."""

    described: ModelDescription | None = None
    effect: VariationEffect = VariationEffect.UNKNOWN
    trials: int = 0

    def of(self, described: ModelDescription) -> "Variation":
        """That of a model that describes itself so."""
        return self if described == self.described else Variation(described)

    def apply(self, canary: Canary, number: int) -> Canary | None:
        """The canary with inputs that `number` varies; None if this one is not to be varied."""
        if self.effect is VariationEffect.REJECTED:
            return None
        steps = [varied(inputs, number) for inputs in canary.steps]
        if None in steps:
            return None
        expected = () if self.effect is VariationEffect.DIFFERENT else canary.expectations
        return replace(canary, steps=tuple(filter(None, steps)), expectations=expected)

    def after(self, effect: VariationEffect) -> "Variation":
        """The same after an answer: the first ones tell how the model takes it."""
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
        """Whether it is not known yet how the model takes it."""
        return self.trials < _TRIALS


def advice(model: str) -> str:
    """What to tell the operator of a model whose canaries never reach it."""
    return (
        f"{model}: Triton's response cache answers its canary, which proves nothing about the"
        " model. Give the canary an input that can be varied (text, or a number that is no whole"
        " one), or disable response_cache in the model's configuration"
    )


def varied(inputs: Mapping[str, Tensor], number: int) -> Mapping[str, Tensor] | None:
    """The inputs with one of them varied a little; None if none of them can be."""
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
