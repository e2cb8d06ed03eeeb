"""The derived canary of a model without a configured one, and what it has proven so far. Pure.

Its inputs and expectations may be wrong for a healthy model. So until it has passed once, a failure
only warns; a model that has never answered it is not proven either. A failure after it has passed
counts against the model.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sidecar.health.canary.definition import Canary
from sidecar.health.canary.derive import DERIVATION_VERSION, derive, repeatable
from sidecar.triton.api import Answer, ModelDescription
from sidecar.verdict.evidence import Finding, Layer, Level, Reason

# The canary is waiting. If it was never answered, it may be one that never can be.
_WAITING = frozenset({Reason.MODEL_HUNG, Reason.CANARY_UNANSWERED})


@dataclass(frozen=True, slots=True)
class Proven:
    """Proof that a derived canary was answered, and whether any answer passed.

    `form` identifies the canary: the model's inputs and outputs and how they are used.
    """

    form: str
    passed: bool = False


ProvenByModel = Mapping[str, Proven]  # by model


class DerivedCanary:
    """Keeps the derived canary and what it learnt while the model's description is the same.

    `proven` counts as long as the form is the same: also after a reload of the model, and in a
    sidecar that got it from its predecessor.
    """

    def __init__(self, proven: Proven | None = None) -> None:
        self.proven = proven
        self._form = ""
        self.reloaded()

    def reloaded(self) -> None:
        """Forget what an earlier load of the model answered."""
        self._described: ModelDescription | None = None
        self._canary: Canary | str = ""
        self._first: Answer | None = None
        self._learnt = False

    def of(self, described: ModelDescription) -> Canary | str:
        """The canary for a description, or why none can be derived."""
        if described != self._described:
            self.reloaded()
            self._described, self._canary = described, derive(described)
            self._form = form_of(described)
        return self._canary

    def record(self, answer: Answer, passed: bool) -> None:
        """Record an answer; the second one that passes may add expectations."""
        before = self._known
        self.proven = Proven(self._form, passed or bool(before and before.passed))
        if passed:
            self._learn(answer)

    def excused(self, finding: Finding) -> Finding:
        """This canary's finding, milder if the canary itself may be at fault."""
        return excused(finding, self._known)

    @property
    def _known(self) -> Proven | None:
        return self.proven if self.proven and self.proven.form == self._form else None

    def _learn(self, answer: Answer) -> None:
        if self._learnt or isinstance(self._canary, str):
            return
        if self._first is None:
            self._first = answer
            return
        self._canary = repeatable(self._canary, self._first, answer)
        self._learnt, self._first = True, None


def form_of(described: ModelDescription) -> str:
    """A digest of everything in a description that affects the canary's inputs or expectations."""
    parts = (
        *(DERIVATION_VERSION, described.decoupled, described.stateful, described.max_batch_size),
        *(described.inputs, described.outputs),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def excused(finding: Finding, known: Proven | None) -> Finding:
    """A derived canary's finding, milder unless a canary of its form has passed before."""
    critical = finding.layer is Layer.CANARY and finding.level is Level.CRITICAL
    if not critical or finding.reason is Reason.CONFIG:
        return finding
    if known and (known.passed or finding.reason is not Reason.CANARY_WRONG_ANSWER):
        return finding
    waits = finding.reason in _WAITING
    return replace(finding, reason=Reason.CANARY_LATE if waits else Reason.CANARY_NEVER_PASSED)
