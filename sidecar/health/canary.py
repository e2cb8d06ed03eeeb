"""A canary: one inference whose answer is known. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sidecar.health.expectations import Expectation, Label
from sidecar.health.expectations.exact import fits
from sidecar.health.expectations.promise import Promise, broken
from sidecar.health.expectations.showing import cut
from sidecar.triton_api import ModelDescription, Question, Tensor, TensorSpec

_SHOWN = 400  # characters of a misfit


@dataclass(frozen=True, slots=True)
class Budgets:
    """Seconds above which an answer is slow (`warn`), or too slow to be of use (`fail`).

    `first_*` are for the first response of a stream, the others for the whole answer. `traffic` is
    for the mean of the requests of clients.
    """

    warn: float | None = None
    fail: float | None = None
    first_warn: float | None = None
    first_fail: float | None = None
    traffic: float | None = None


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
            outputs=self._outputs(described),
        )

    def labelled(self, described: ModelDescription) -> set[str]:
        """The outputs whose class is asked for by its label, which is known to Triton alone.

        Triton classifies scores only; a model's own text is left as it is.
        """
        text = {spec.name for spec in described.outputs if spec.datatype == "BYTES"}
        return {
            each.output
            for each in self.expectations
            if isinstance(each, Label) and isinstance(each.label, str) and each.output not in text
        }

    def _outputs(self, described: ModelDescription) -> tuple[tuple[str, bool], ...]:
        """What to ask for: nothing in particular, unless a class by its label is wanted."""
        labelled = self.labelled(described)
        expected = dict.fromkeys(each.output for each in self.expectations)
        return tuple((name, name in labelled) for name in expected) if labelled else ()


def misfit(canary: Canary, described: ModelDescription) -> str:
    """Why a canary does not fit the model as it is loaded; empty if it does.

    A stateful model may be asked a sequence of one step. A model that describes no tensors is
    not judged by them.
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
    fault = _expectations_misfit(canary, described)
    return cut(f"{key}.expect: {fault}", _SHOWN) if fault else ""


def _expectations_misfit(canary: Canary, described: ModelDescription) -> str:
    promises = {spec.name: _promise(spec, described.decoupled) for spec in described.outputs}
    for name in canary.labelled(described) & promises.keys():
        promises[name] = Promise("BYTES", None, f"the best class of {name} is asked for as text")
    for expectation in canary.expectations:
        promise = promises.get(expectation.output)
        if promise is None:
            return (
                f"expected one of the outputs {_listed(described.outputs)},"
                f" found {expectation.output}"
            )
        if fault := broken(expectation, promise):
            return f"{expectation.output}: {fault}"
    return ""


def _promise(spec: TensorSpec, decoupled: bool) -> Promise:
    """What a model says of an output; the responses of a stream are put together in a row."""
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
