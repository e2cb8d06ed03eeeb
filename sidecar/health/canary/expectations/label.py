"""The expectation that a classifier chooses a certain class. Pure."""

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sidecar.health.canary.expectations.formatting import is_text, show
from sidecar.triton.api import Tensor

# `value:index[:label]`, the best first. Source: Triton's classification extension.
_CLASS = re.compile(r"[^:]*:(?P<index>\d{1,18})(?::(?P<label>.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Label:
    """The best class of every row is this one: a label, or an index.

    Rows run along the output's last extent. Numbers are scores, one per class; text is the result
    of Triton's classification extension.
    """

    key: ClassVar[str] = "label"
    output: str
    label: str | int

    def fault(self, tensor: Tensor) -> str | None:
        """What is wrong with the output, or None."""
        array = tensor.array
        if not array.size or array.dtype.kind == "c":
            return f"expected scores, got {tensor.datatype} {list(array.shape)}"
        rows = array.reshape(-1, array.shape[-1] if array.ndim else 1)
        if is_text(tensor):
            # Lossless, so that invalid UTF-8 never equals an expected label.
            found = [self._classified(row[0].decode(errors="surrogateescape")) for row in rows]
        elif isinstance(self.label, str):
            return f"expected text as value:index:label, got {tensor.datatype}"
        elif not np.isfinite(rows).all():
            return "expected finite scores, got NaN or infinity"
        else:
            found = [self._same(int(best)) for best in rows.argmax(axis=1)]
        return next((fault for fault in found if fault), None)

    def _classified(self, text: str) -> str | None:
        match = _CLASS.fullmatch(text)
        if match is None:
            return f"expected text as value:index:label, got {show(text)}"
        return self._same(int(match["index"]) if isinstance(self.label, int) else match["label"])

    def _same(self, got: object) -> str | None:
        return None if got == self.label else f"expected {show(self.label)}, got {show(got)}"
