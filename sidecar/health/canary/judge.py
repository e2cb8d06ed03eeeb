"""Whether a canary fits its model, and whether an answer to it is right. Pure."""

from collections.abc import Iterable, Mapping

from sidecar.health.canary.definition import Canary
from sidecar.health.canary.expectations import Expectation, broken_by
from sidecar.health.canary.expectations.exact import fits
from sidecar.health.canary.expectations.formatting import cut
from sidecar.health.canary.expectations.promise import Promise, broken
from sidecar.triton.api import Answer, ModelDescription, Tensor, TensorSpec
from sidecar.verdict.evidence import Reason

_SHOWN = 400  # characters of a misfit


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
