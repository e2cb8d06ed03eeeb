"""The canary of a model that was given none, and what it has proven so far.

A question that nobody chose, and a promise that nobody checked, may both be wrong for a healthy
model. So what has never passed warns only; a model that has never answered is not proven by it
either. What has passed once, and fails later, tells of the model.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sidecar.health.canary.definition import Canary
from sidecar.health.canary.derive import DERIVATION_VERSION, derive, repeatable
from sidecar.triton.api import Answer, ModelDescription
from sidecar.verdict.evidence import Finding, Layer, Level, Reason

# The canary waits: whether for the model or for ever cannot be told if it never came back.
_WAITING = frozenset({Reason.MODEL_HUNG, Reason.CANARY_UNANSWERED})


@dataclass(frozen=True, slots=True)
class Proven:
    """That a derived canary was answered, and whether any answer passed.

    `form` tells one question and promise from others: inputs, outputs and how they are used.
    """

    form: str
    passed: bool = False


ProvenByModel = Mapping[str, Proven]  # by model


class DerivedCanary:
    """Remembers what was derived and learnt as long as the model describes itself the same.

    What is `proven` counts for as long as the form is the same: also for what is loaded anew, and
    for a sidecar that is told by its predecessor.
    """

    def __init__(self, proven: Proven | None = None) -> None:
        self.proven = proven
        self._form = ""
        self.reloaded()

    def reloaded(self) -> None:
        """Expect nothing any more of what another load of the model has answered."""
        self._described: ModelDescription | None = None
        self._canary: Canary | str = ""
        self._first: Answer | None = None
        self._learnt = False

    def of(self, described: ModelDescription) -> Canary | str:
        """The canary for a description, or why there can be none."""
        if described != self._described:
            self.reloaded()
            self._described, self._canary = described, derive(described)
            self._form = form_of(described)
        return self._canary

    def record(self, answer: Answer, passed: bool) -> None:
        """Take in an answer; the second one that passed may say more about what to expect."""
        before = self._known
        self.proven = Proven(self._form, passed or bool(before and before.passed))
        if passed:
            self._learn(answer)

    def excused(self, finding: Finding) -> Finding:
        """The finding of this canary, milder if it may be the canary's own fault."""
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
    """What tells models apart of which other answers are expected, or which are asked otherwise."""
    parts = (
        *(DERIVATION_VERSION, described.decoupled, described.stateful, described.max_batch_size),
        *(described.inputs, described.outputs),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def excused(finding: Finding, known: Proven | None) -> Finding:
    """What a derived canary's finding means, given what is known of earlier ones of its form."""
    critical = finding.layer is Layer.CANARY and finding.level is Level.CRITICAL
    if not critical or finding.reason is Reason.CONFIG:
        return finding
    if known and (known.passed or finding.reason is not Reason.CANARY_WRONG_ANSWER):
        return finding
    waits = finding.reason in _WAITING
    return replace(finding, reason=Reason.CANARY_LATE if waits else Reason.CANARY_NEVER_PASSED)
