"""Where tests assert wording: each message of `sidecar/` in one place at most.

`python -m tests.checks.wording` lists the messages that several places assert, with the places:
test functions, helpers and constants. A place asserts a message if it compares something
with a phrase that only this message has. What many messages share, such as "no answer in time", is
no such phrase, and what a test passes to a function is an input.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.checks.asserted_texts import places, sought, texts

ROOT = Path(__file__).parents[2]
# A shorter part of a text says too little to tell which message it is of.
WORDS, LETTERS = 3, 12
# Where a line ends, a value stands, or a regular expression leaves something open.
_ENDS = re.compile(r"\n|\\n|\{\}|\.[*+]|\\[dw]\+?|\|")


@dataclass(frozen=True)
class Message:
    """A text of the code, with `{}` for each value in it, and the phrases between these.

    Two messages may read alike; they differ by `number`.
    """

    text: str
    phrases: tuple[str, ...]
    number: int


class Messages:
    """The messages of the code."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._with_pair: dict[str, set[Message]] = defaultdict(set)
        for number, text in enumerate(texts):
            message = Message(text, tuple(_phrases(text)), number)
            for pair in (pair for phrase in message.phrases for pair in _pairs(phrase)):
                self._with_pair[pair].add(message)

    def identified(self, asserted: str) -> Iterator[Message]:
        """Those that share words with what is asserted which no other message has."""
        for message in self._like(asserted):
            shared = {_shared(asserted, phrase) for phrase in message.phrases} - {""}
            if any(self._is_unique(words) for words in shared):
                yield message

    def _is_unique(self, words: str) -> bool:
        having = (any(words in phrase for phrase in each.phrases) for each in self._like(words))
        return sum(having) == 1

    def _like(self, phrase: str) -> set[Message]:
        """All that might have words in common with a phrase."""
        return {each for pair in _pairs(phrase) for each in self._with_pair.get(pair, ())}


def asserted_twice(root: Path = ROOT) -> dict[str, list[str]]:
    """Each message of the code that more than one place of the tests asserts, with the places."""
    modules = [ast.parse(path.read_text()) for path in _modules(root / "sidecar")]
    foreign = {text for module in modules for text in sought(module) if any(_phrases(text))}
    written = (text for module in modules for text in texts(module))
    messages = Messages(text for text in written if text not in foreign)
    found: dict[str, set[str]] = defaultdict(set)
    for phrase, where in _asserted(root / "tests", foreign).items():
        for message in messages.identified(phrase):
            found[message.text] |= where
    return {text: sorted(where) for text, where in sorted(found.items()) if len(where) > 1}


def _modules(sources: Path) -> Iterator[Path]:
    """The modules that write messages; what protoc generated writes none."""
    for path in sorted(sources.rglob("*.py")):
        if "v1" not in path.relative_to(sources).parts:
            yield path


def _asserted(tests: Path, foreign: set[str]) -> dict[str, set[str]]:
    """The phrases that tests assert, each with its places, except in other programs' texts."""
    found: dict[str, set[str]] = defaultdict(set)
    for place, text in places(tests):
        if not any(each in text for each in foreign):
            for phrase in _phrases(text):
                found[phrase].add(place)
    return found


def _shared(asserted: str, phrase: str) -> str:
    """The one if the other has it, or the end of one with which the other begins; "" for none."""
    if asserted in phrase or phrase in asserted:
        return min(asserted, phrase, key=len)
    return _overlap(asserted, phrase) or _overlap(phrase, asserted)


def _overlap(one: str, other: str) -> str:
    start = one.find(" ".join(other.split()[: WORDS - 1]))
    end = one[start:]
    return end if start >= 0 and other.startswith(end) and _is_phrase(end) else ""


def _phrases(text: str) -> Iterator[str]:
    """Its parts of several words, without the punctuation around them."""
    for part in _ENDS.split(text):
        phrase = part.replace("\\", "").strip(" .,:;()^$")
        if _is_phrase(phrase):
            yield phrase


def _is_phrase(text: str) -> bool:
    words = [each for each in text.split() if any(map(str.isalpha, each))]
    return len(text) >= LETTERS and len(words) >= WORDS


def _pairs(phrase: str) -> Iterator[str]:
    """Each word with the one after it."""
    yield from map(" ".join, pairwise(phrase.split()))


def main() -> int:
    """Print the messages, and the exit status: 1 if there is one."""
    twice = asserted_twice()
    for message, where in twice.items():
        print(repr(message))
        for place in where:
            print("   ", place)
    return bool(twice)


if __name__ == "__main__":
    sys.exit(main())
