"""A canary: one inference whose answer is known. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.health.expectations import Expectation
from sidecar.triton_api import ModelDescription, Question, Tensor


@dataclass(frozen=True, slots=True)
class Budgets:
    """Seconds above which an answer is slow (`warn`), or too slow to be of use (`fail`).

    `first_*` are for the first response of a stream, the others for the whole answer.
    """

    warn: float | None = None
    fail: float | None = None
    first_warn: float | None = None
    first_fail: float | None = None


@dataclass(frozen=True)
class Canary:
    """One inference with a known answer.

    `timeout` is the seconds after which an answer is late, `stall` those without any progress of
    the model after which it is hung (None: as in `health.stall`). `version` is the one that has to
    be loaded, empty for any. `derived` ones were made from the model's metadata.
    """

    model: str
    steps: tuple[Mapping[str, Tensor], ...]
    expectations: tuple[Expectation, ...]
    timeout: float = 2.0
    stall: float | None = None
    version: str = ""
    budgets: Budgets = Budgets()
    derived: bool = False

    def question(self, described: ModelDescription) -> Question:
        """The inference to ask of a model that describes itself so."""
        return Question(
            model=self.model,
            steps=self.steps,
            version=self.version,
            decoupled=described.decoupled,
            stateful=described.stateful,
            priority=described.priority_levels,  # the lowest: clients come first
        )
