"""Whether all processes are there in which Triton's Python backend runs a model. Pure.

A stub that dies is not started again by every Triton. Triton calls the model ready all the same,
and what the stub was asked hangs or fails.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.triton.api import ModelDescription
from sidecar.triton.stubs_api import Stub
from sidecar.verdict.evidence import Finding, Layer, Reason


@dataclass(frozen=True, slots=True)
class StubCounts:
    """Which model as described was seen to have a stub for each of its instances; None if none."""

    complete: ModelDescription | None = None

    def after(self, described: ModelDescription, stubs: Sequence[Stub] | None) -> "StubCounts":
        """The same after a look; what cannot be seen any more is not known any more."""
        if stubs is None:
            return StubCounts()
        return StubCounts(described) if running(described, stubs) >= wanted(described) > 0 else self

    def missing(self, described: ModelDescription, stubs: Sequence[Stub] | None) -> int:
        """How many stubs have gone since it had all of them; 0 where nothing proves that."""
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
    """What it means that stubs are missing; the text is the same however many more follow."""
    detail = f"{described.name}: not all of its {wanted(described)} stub processes are alive"
    return Finding(Layer.MODEL, described.name, Reason.MODEL_STUB_DIED, detail)
