"""Checks that all stub processes in which Triton's Python backend runs a model are alive. Pure.

Not every Triton restarts a stub that died. Triton reports the model ready all the same, and the
stub's requests hang or fail.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.triton.api import ModelDescription
from sidecar.triton.python_stubs_api import Stub
from sidecar.verdict.evidence import Finding, Layer, Reason


@dataclass(frozen=True, slots=True)
class StubCounts:
    """The description under which a model was seen with a stub for each instance; None if never."""

    complete: ModelDescription | None = None

    def after(self, described: ModelDescription, stubs: Sequence[Stub] | None) -> "StubCounts":
        """The counts after a scan; nothing is known once stubs can no longer be seen."""
        if stubs is None:
            return StubCounts()
        return StubCounts(described) if running(described, stubs) >= wanted(described) > 0 else self

    def missing(self, described: ModelDescription, stubs: Sequence[Stub] | None) -> int:
        """How many stubs are gone since the model had all of them; 0 without proof."""
        if stubs is None or self.complete != described:
            return 0
        return max(wanted(described) - running(described, stubs), 0)


def running(described: ModelDescription, stubs: Sequence[Stub]) -> int:
    """How many stubs run a model."""
    return sum(stub.runs(described.name) for stub in stubs)


def wanted(described: ModelDescription) -> int:
    """How many stubs a model has if its backend uses one for each instance."""
    return described.instances * len(described.versions)


def finding(described: ModelDescription) -> Finding:
    """The finding for missing stubs; its text does not depend on how many are missing."""
    detail = f"{described.name}: not all of its {wanted(described)} stub processes are alive"
    return Finding(Layer.MODEL, described.name, Reason.MODEL_STUB_DIED, detail)
