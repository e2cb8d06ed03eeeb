"""Expectations of text; each applies to every element of the output. Pure."""

from dataclasses import dataclass
from typing import ClassVar

from sidecar.health.canary.bytes_elements import encoded
from sidecar.health.canary.expectations.degeneration import degeneration
from sidecar.health.canary.expectations.formatting import each_element, each_text, plain, show
from sidecar.health.canary.expectations.patterns import matches, shown
from sidecar.triton.api import Tensor

# Characters: the time of a search may grow polynomially.
SEARCHED = 4096


@dataclass(frozen=True, slots=True)
class Regex:
    """The pattern is found somewhere in each text of at most `SEARCHED` characters."""

    key: ClassVar[str] = "regex"
    output: str
    pattern: str

    def fault(self, tensor: Tensor) -> str | None:
        """What is wrong with the output, or None."""
        return each_text(tensor, self._judge)

    def _judge(self, text: str) -> str | None:
        if len(text) > SEARCHED:
            # Not truncated: an anchor such as $ would match before the end of the text.
            return f"expected at most {SEARCHED} characters to search, got {len(text)}"
        try:
            found = matches(self.pattern, text)
        except TimeoutError as error:
            return f"{error}, got {show(text)}"
        return None if found else f"expected a match of {shown(self.pattern)}, got {show(text)}"


@dataclass(frozen=True, slots=True)
class Contains:
    """Each text contains all of these; they are compared as bytes."""

    key: ClassVar[str] = "contains"
    output: str
    parts: tuple[str | bytes, ...]

    def fault(self, tensor: Tensor) -> str | None:
        """What is wrong with the output, or None."""
        return each_element(tensor, self._judge)

    def _judge(self, element: bytes) -> str | None:
        for part in self.parts:
            if encoded(part) not in element:
                return f"expected {show(part)} in it, got {show(plain(element))}"
        return None


@dataclass(frozen=True, slots=True)
class NotDegenerate:
    """No text is degenerate: empty, or stuck in a loop."""

    key: ClassVar[str] = "not_degenerate"
    output: str

    def fault(self, tensor: Tensor) -> str | None:
        """What is wrong with the output, or None."""
        return each_text(tensor, self._judge)

    def _judge(self, text: str) -> str | None:
        found = degeneration(text)
        return f"expected text with a meaning, got {found}: {show(text)}" if found else None
