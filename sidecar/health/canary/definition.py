"""A canary: one inference with a known answer. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sidecar.health.canary.expectations import Expectation, Label, broken_by
from sidecar.health.canary.expectations.exact import fits
from sidecar.health.canary.expectations.formatting import cut
from sidecar.health.canary.expectations.promise import Promise, broken
from sidecar.triton.api import Answer, InferenceRequest, ModelDescription, Tensor, TensorSpec
from sidecar.verdict.evidence import Reason

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


def misfit(canary: Canary, described: ModelDescription) -> str:
    """Why a canary does not fit the loaded model; empty if it does.

    A sequence of one step fits a stateful model. For a model that describes no tensors, they are
    not checked. Expectations are checked against answers only, because a model may answer
    differently from its config.
    """
    key = f"canary.{canary.model}"
    several = len(canary.steps) > 1
    if several and not described.stateful:
        return f"{key}.steps: expected inputs, because the model is not stateful"
    if not described.inputs and not described.outputs:
        return ""
    for number, inputs in enumerate(canary.steps):
        fault = _inputs_misfit(inputs, described)
        if fault:
            return cut(f"{key}.{f'steps.{number}' if several else 'inputs'}: {fault}", _SHOWN)
    known = {spec.name for spec in described.outputs}
    unknown = [name for name, _ in canary.request(described).outputs if name not in known]
    return cut(f"{key}.expect: {_unknown(unknown[0], described)}", _SHOWN) if unknown else ""


def fault(canary: Canary, described: ModelDescription, answer: Answer) -> tuple[Reason, str] | None:
    """What is wrong with an answer, or None; raises nothing, whatever the answer holds.

    The canary itself is wrong, CONFIG, if its expectation contradicts the model's description and
    the answer is as described.
    """
    found = broken_by(canary.expectations, answer)
    if found is None:
        return None
    expectation, why = found
    contradiction = _contradiction(expectation, canary, described)
    if contradiction and _as_described(expectation.output, canary, described, answer):
        return Reason.CONFIG, cut(f"canary.{canary.model}.expect: {contradiction}", _SHOWN)
    return Reason.CANARY_WRONG_ANSWER, why


def _as_described(name: str, canary: Canary, described: ModelDescription, answer: Answer) -> bool:
    """Whether an output has the form that the model describes, or is absent as described."""
    spec = next((spec for spec in described.outputs if spec.name == name), None)
    got = answer.outputs.get(name)
    if spec is None or got is None:
        return spec is None and got is None
    if name in canary.labelled(described):
        return got.datatype == "BYTES"
    return got.datatype == spec.datatype and (
        described.decoupled or fits(spec.shape, got.array.shape)
    )


def _contradiction(expectation: Expectation, canary: Canary, described: ModelDescription) -> str:
    """Why no output as the model describes can meet an expectation; empty if one can."""
    name = expectation.output
    spec = next((spec for spec in described.outputs if spec.name == name), None)
    if spec is None:
        return _unknown(name, described) if described.outputs else ""
    if name in canary.labelled(described):
        promise = Promise("BYTES", None, f"the best class of {name} is asked for as text")
    else:
        promise = _promise(spec, described.decoupled)
    why = broken(expectation, promise)
    return f"{name}: {why}" if why else ""


def _unknown(name: str, described: ModelDescription) -> str:
    return f"expected one of the outputs {_listed(described.outputs)}, found {name}"


def _promise(spec: TensorSpec, decoupled: bool) -> Promise:
    """A model's promise about an output; a stream's responses are concatenated."""
    shape = None if decoupled else spec.shape
    return Promise(spec.datatype, shape, f"the model describes {_listed([spec])}")


def _inputs_misfit(inputs: Mapping[str, Tensor], described: ModelDescription) -> str:
    specs = {spec.name: spec for spec in described.inputs}
    for name, tensor in inputs.items():
        if name not in specs:
            return f"expected some of the inputs {_listed(described.inputs)}, found {name}"
        fault = _tensor_misfit(tensor, specs[name], described.max_batch_size)
        if fault:
            return f"{name}: {fault}"
    missing = [name for name, spec in specs.items() if name not in inputs and not spec.optional]
    if missing:
        return f"expected the inputs {_listed(described.inputs)}, found no {missing[0]}"
    return ""


def _tensor_misfit(tensor: Tensor, spec: TensorSpec, max_batch_size: int) -> str:
    shape = tensor.array.shape
    if tensor.datatype != spec.datatype:
        return f"expected the datatype {spec.datatype}, found {tensor.datatype}"
    if not fits(spec.shape, shape):
        batch = " (batch first)" if max_batch_size else ""
        return f"expected the shape {list(spec.shape)}{batch}, found {list(shape)}"
    if max_batch_size and shape and not 1 <= shape[0] <= max_batch_size:
        return f"expected a batch of 1 to {max_batch_size}, found {shape[0]}"
    return ""


def _listed(specs: Iterable[TensorSpec]) -> str:
    """The tensors as `name DATATYPE [shape]`."""
    return "; ".join(
        f"{spec.name} {spec.datatype} {list(spec.shape)}{' (optional)' if spec.optional else ''}"
        for spec in specs
    )
