"""Detects the output of a broken language model: no text, or endless repetition. Pure.

Models get stuck in loops, and a loop continues, because each repetition makes the next more likely
(Holtzman et al. 2020, arXiv:1904.09751; Xu et al. 2022, arXiv:2206.02369). NaN logits produce the
same token over and over, often "!" (vllm-project/vllm#14126, #22881).

A text is degenerate if, without surrounding white space,

1. it has no visible character;
2. it is one unit of any length, repeated at least 4 times, and has at least 8 characters;
3. at least half of it, and at least 32 characters, is one unit repeated at least 4 times;
4. it has at least 32 words, and at least half of its sequences of 4 words occurred before in it
   (the measure is seq-rep-4 of Welleck et al. 2020, arXiv:1908.04319; people hardly repeat any).

Short correct texts are within the bounds: "no no no", "1000000000", "ha ha", "...", a list.
"""

import numpy as np
from numpy.typing import NDArray

_REPEATS = 4
_WHOLE = 8  # characters of a text that is only repetition
_PART = 32  # characters of a repetition with other text around it
_WORDS = 32
_GRAM = 4
# A loop lasts until the end, so the end is enough. This bounds the work, too.
_JUDGED = 4096


def degeneration(text: str) -> str:
    """What is degenerate about a text; empty if nothing is."""
    text = text[-_JUDGED:].strip()
    if not any(character.isprintable() and not character.isspace() for character in text):
        return "nothing visible"
    unit, length = _longest_loop(text)
    whole = length == len(text) and length >= _WHOLE
    part = 2 * length >= len(text) and length >= _PART
    if whole or part:
        return f"one unit of {unit} characters repeated {length // unit} times"
    words = text.split()
    repeated = _repeated(words)
    if len(words) >= _WORDS and repeated >= 0.5:
        return f"{repeated:.0%} of all sequences of {_GRAM} words repeated"
    return ""


def _longest_loop(text: str) -> tuple[int, int]:
    """The unit and the whole length, in characters, of the longest run that repeats a unit.

    Only runs of at least `_REPEATS` units count; the shortest unit wins. In a run with period p the
    text equals itself shifted by p.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    best = (1, 0)
    for period in range(1, len(codes) // _REPEATS + 1):
        length = _longest_run(codes[period:] == codes[:-period]) + period
        if length >= _REPEATS * period and length > best[1]:
            best = (period, length)
    return best


def _longest_run(flags: NDArray[np.bool_]) -> int:
    breaks = np.flatnonzero(~flags)
    edges = np.concatenate(([-1], breaks, [len(flags)]))
    return int(np.diff(edges).max()) - 1


def _repeated(words: list[str]) -> float:
    """The share of sequences of `_GRAM` words that occurred before."""
    grams = [tuple(words[start : start + _GRAM]) for start in range(len(words) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
