"""A canary: one inference with a known answer. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.health.canary.expectations import Expectation, Label
from sidecar.triton.api import InferenceRequest, ModelDescription, Tensor

_SHOWN = 400  # characters of a misfit


@dataclass(frozen=True, slots=True)
class Budgets:
    """Seconds above which an answer is slow (`warn`), or too slow to be useful (`fail`).

    `first_*` are for the first response of a stream, the others for the whole answer. `traffic` is
    for the mean of clients' requests.
    """

    warn: float | None = None
    fail: float | None = None
    first_warn: float | None = None
    first_fail: float | None = None
    traffic: float | None = None


@dataclass(frozen=True)
class Canary:
    """One inference with a known answer.

    An answer is late after `timeout` seconds; the model is hung after `stall` seconds without
    progress (None: `health.stall`). `version` has to be loaded; empty for any. Each request has the
    `parameters` and the `id`. A `derived` canary was made from the model's metadata.
    """

    model: str
    steps: tuple[Mapping[str, Tensor], ...]
    expectations: tuple[Expectation, ...]
    timeout: float = 2.0
    stall: float | None = None
    version: str = ""
    budgets: Budgets = Budgets()
    derived: bool = False
    parameters: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    id: str = ""

    def request(self, described: ModelDescription) -> InferenceRequest:
        """The inference request for a model with this description."""
        return InferenceRequest(
            model=self.model,
            steps=self.steps,
            version=self.version,
            decoupled=described.decoupled,
            stateful=described.stateful,
            string_ids=described.string_ids,
            priority=described.priority_levels,  # the lowest: clients come first
            outputs=self._outputs(described),
            parameters=self.parameters,
            id=self.id,
        )

    def labelled(self, described: ModelDescription) -> set[str]:
        """The outputs requested as a class, because they are expected by label.

        Only Triton knows the labels. It classifies scores; a text output is requested as it is.
        """
        text = {spec.name for spec in described.outputs if spec.datatype == "BYTES"}
        return {
            each.output
            for each in self.expectations
            if isinstance(each, Label) and isinstance(each.label, str) and each.output not in text
        }

    def _outputs(self, described: ModelDescription) -> tuple[tuple[str, bool], ...]:
        """The outputs to request: none in particular, unless a label is expected."""
        labelled = self.labelled(described)
        expected = dict.fromkeys(each.output for each in self.expectations)
        return tuple((name, name in labelled) for name in expected) if labelled else ()
