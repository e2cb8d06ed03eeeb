#!/usr/bin/env python3
"""Build tinychat's n-gram table from its text.

    python triton_models/build_ngrams.py            # write tinychat/1/ngrams.json
    python triton_models/build_ngrams.py --check    # exit 1 if that file is out of date

The same text always gives the same bytes, so the table can live in git and be checked.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
TEXT = HERE / "tinychat.txt"
TABLE = HERE / "tinychat" / "1" / "ngrams.json"

# The generator splits prompts the same way; the table carries the pattern so that they agree.
PATTERN = r"[A-Za-z0-9']+|[.,:;?!]"
SENTENCE_ENDS = frozenset(".?!")


def build(text: str) -> str:
    """Return the table for `text` as JSON: one line per part, tokens as indexes.

    `tokens`: the vocabulary in order of first appearance. `starts`: tokens that begin a sentence.
    `after_one[i]` and `after_two["i j"]`: what follows token i, and the pair i j, as a flat list
    [token, count, token, count, ...], most frequent first. The text is read as a ring, so every
    token and every pair has a successor and a generation can always continue.

    Raises ValueError if the text has fewer than three tokens, or no sentence after another.
    """
    words = re.findall(PATTERN, text)
    if len(words) < 3:
        raise ValueError(f"{TEXT.name}: expected a text of at least 3 tokens, found {len(words)}")
    tokens = list(dict.fromkeys(words))
    index = {token: number for number, token in enumerate(tokens)}
    ring = [index[word] for word in words]
    starts: dict[int, None] = {}
    after_one: list[Counter[int]] = [Counter() for _ in tokens]
    after_two: dict[tuple[int, int], Counter[int]] = {}
    for position, token in enumerate(ring):
        before, before_that = ring[position - 1], ring[position - 2]
        after_one[before][token] += 1
        after_two.setdefault((before_that, before), Counter())[token] += 1
        if tokens[before] in SENTENCE_ENDS:
            starts[token] = None
    if not starts:
        raise ValueError(f"{TEXT.name}: expected at least one end of a sentence ('.', '?', '!')")
    parts = {
        "token_pattern": PATTERN,
        "tokens": tokens,
        "starts": sorted(starts),
        "after_one": [_flat(counts) for counts in after_one],
        "after_two": {f"{a} {b}": _flat(counts) for (a, b), counts in sorted(after_two.items())},
    }
    lines = (
        f"{json.dumps(key)}:{json.dumps(part, separators=(',', ':'))}"
        for key, part in parts.items()
    )
    return "{" + ",\n".join(lines) + "}\n"


def _flat(counts: Counter[int]) -> list[int]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [number for item in ordered for number in item]


def main() -> int:
    parser = argparse.ArgumentParser(description="Build tinychat's n-gram table from its text.")
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 on a difference")
    arguments = parser.parse_args()
    table = build(TEXT.read_text(encoding="utf-8"))
    if not arguments.check:
        TABLE.write_text(table, encoding="utf-8")
        return 0
    if TABLE.read_text(encoding="utf-8") == table:
        return 0
    print(f"{TABLE}: not what {TEXT.name} gives; run {Path(__file__).name}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
