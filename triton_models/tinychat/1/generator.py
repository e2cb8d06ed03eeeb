"""The text generator behind tinychat and tinychat_unary; no Triton in here.

A word-level n-gram model: the next token is drawn from what followed the last two tokens in the
text, mixed with what followed the last one. The same table, prompt and parameters always give the
same tokens, on every machine.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path

from sampling import Sampling

# What followed the last two tokens counts this much more than what followed the last one.
PAIR_WEIGHT = 30.0
# Only the end of a prompt can matter to two tokens of context, so a huge one costs nothing.
PROMPT_TAIL = 1000
NO_SPACE_BEFORE = frozenset(".,:;?!")

Candidates = tuple[tuple[int, float], ...]  # (token, weight), heaviest first


class Generator:
    """Continues prompts from the table that build_ngrams.py wrote.

    Safe to share between threads: the only thing it changes is a cache of pure results.
    """

    def __init__(self, table: Path) -> None:
        """Raises OSError if the table cannot be read, KeyError or ValueError if it is not one."""
        parts = json.loads(table.read_text(encoding="utf-8"))
        self._tokens: list[str] = parts["tokens"]
        self._starts: list[int] = parts["starts"]
        self._after_one: list[list[int]] = parts["after_one"]
        self._after_two: dict[str, list[int]] = parts["after_two"]
        self._pattern = re.compile(parts["token_pattern"])
        self._index = {token: number for number, token in enumerate(self._tokens)}
        self._cache: dict[tuple[int | None, int], Candidates] = {}

    def text(self, prompt: str, sampling: Sampling) -> str:
        """Return the whole answer, sampling.max_tokens tokens long."""
        return "".join(self.pieces(prompt, sampling))

    def pieces(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """Yield the answer token by token, each with the space that belongs before it."""
        first = True
        for token in islice(self._walk(prompt, sampling), sampling.max_tokens):
            word = self._tokens[token]
            yield word if first or word in NO_SPACE_BEFORE else " " + word
            first = False

    def _walk(self, prompt: str, sampling: Sampling) -> Iterator[int]:
        digest = zlib.crc32(prompt.encode())
        draw = random.Random((sampling.seed % 2**64) << 32 | digest)
        before, last = self._context(prompt)
        if last is None:
            before, last = None, self._starts[digest % len(self._starts)]
            yield last
        while True:
            before, last = last, _choose(self._candidates(before, last), sampling, draw)
            yield last

    def _context(self, prompt: str) -> tuple[int | None, int | None]:
        words = self._pattern.findall(prompt[-PROMPT_TAIL:])[-2:]
        known = [self._index.get(word) for word in (None, None, *words)]
        return known[-2], known[-1]

    def _candidates(self, before: int | None, last: int) -> Candidates:
        found = self._cache.get((before, last))
        if found is None:
            weights = dict(_pairs(self._after_one[last]))
            for token, count in _pairs(self._after_two.get(f"{before} {last}", [])):
                weights[token] = weights.get(token, 0) + PAIR_WEIGHT * count
            found = tuple(sorted(weights.items(), key=lambda item: (-item[1], item[0])))
            self._cache[before, last] = found
        return found


def _choose(candidates: Candidates, sampling: Sampling, draw: random.Random) -> int:
    if sampling.temperature == 0:
        return candidates[0][0]
    if sampling.top_k > 0:
        candidates = candidates[: sampling.top_k]
    heaviest = candidates[0][1]
    sums = list(accumulate((w / heaviest) ** (1 / sampling.temperature) for _, w in candidates))
    # top_p: the fewest heaviest candidates that hold this share of the weight.
    last = min(bisect_left(sums, sampling.top_p * sums[-1]), len(sums) - 1)
    return candidates[bisect_right(sums, draw.random() * sums[last], 0, last)][0]


def _pairs(flat: list[int]) -> Iterator[tuple[int, float]]:
    return zip(flat[::2], map(float, flat[1::2]), strict=True)
