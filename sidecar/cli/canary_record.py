"""Records a canary: asks a model, and writes down what to expect of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sidecar import __version__
from sidecar.cli import canary_files, canary_inputs
from sidecar.cli.canary_inputs import Step
from sidecar.errors import ConfigError, Rejected
from sidecar.health import record
from sidecar.health.canary import Canary, misfit
from sidecar.health.derive import derive
from sidecar.health.examine import examine
from sidecar.health.inputs import build
from sidecar.health.record import Proposal
from sidecar.settings.canary import CanarySettings
from sidecar.triton import Triton
from sidecar.triton_api import Answer, ModelDescription, TritonApi

_DESCRIBE = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to record: of which model, with which inputs, and where it goes."""

    model: str
    triton: str
    output: Path
    inputs: Sequence[str] = ()
    inputs_file: Path | None = None
    times: int = 5
    timeout: float = 60.0
    force: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """The steps to ask, as tables for the file and as a canary without expectations."""

    canary: Canary
    steps: Sequence[Step]
    derived: bool = False
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


async def record_canary(
    wishes: Wishes, show: Callable[[Question, Sequence[Answer], Proposal], None]
) -> None:
    """Ask, show, write, and see that what was written passes.

    Raises:
        ConfigError: the wishes cannot be met; nothing was written.
        Rejected: the model refuses the question, or fails what was recorded of it.
    """
    canary_files.refuse_existing([wishes.output], wishes.force)
    async with Triton(wishes.triton) as triton:
        described = await triton.describe(wishes.model, _DESCRIBE)
        question = _question(wishes, described)
        asked = question.canary.question(described)
        answers = [await triton.infer(asked, wishes.timeout) for _ in range(wishes.times)]
        proposal = record.propose(answers, wishes.output.stem)
        show(question, answers, proposal)
        if not proposal.expect:
            raise Rejected(f"{wishes.model}: nothing in its answers can be expected of the next")
        await _write(wishes, triton, question, proposal, _table(described, question, answers))


def _question(wishes: Wishes, described: ModelDescription) -> Question:
    if wishes.inputs_file:
        steps = canary_inputs.from_file(wishes.inputs_file)
    elif wishes.inputs:
        steps = [canary_inputs.from_flags(wishes.inputs, described)]
    else:
        return _derived(wishes, described)
    canary = _without_expectations(wishes.model, steps)
    if fault := misfit(canary, described):
        raise ConfigError(fault)
    return Question(canary, steps)


def _derived(wishes: Wishes, described: ModelDescription) -> Question:
    canary = derive(described)
    if isinstance(canary, str):
        raise ConfigError(f"{wishes.model}: {canary}; give its inputs with --input or --inputs")
    tables, arrays = record.inputs(canary.steps[0], wishes.output.stem)
    return Question(canary, [tables], derived=True, arrays=arrays)


def _without_expectations(model: str, steps: Sequence[Step]) -> Canary:
    # Settings of a canary expect something; what, this is only about to find out.
    settings = {"steps": steps, "expect": [{"output": "any", "finite": True}]}
    canary = build(model, CanarySettings.model_validate(settings))
    return Canary(canary.model, canary.steps, ())


def _table(
    described: ModelDescription, question: Question, answers: Sequence[Answer]
) -> dict[str, Any]:
    key, value = "inputs", question.steps[0]
    asked = {key: value} if len(question.steps) == 1 else {"steps": question.steps}
    return {**asked, **record.latency(answers, described.decoupled)}


async def _write(
    wishes: Wishes,
    triton: TritonApi,
    question: Question,
    proposal: Proposal,
    table: Mapping[str, Any],
) -> None:
    arrays = {**question.arrays, **proposal.arrays}
    places = [wishes.output.parent / name for name in arrays]
    canary_files.refuse_existing(places, wishes.force)
    head = f"Recorded by triton-sidecar {__version__}, from {wishes.times} answers."
    whole = {**table, "expect": proposal.expect}
    with canary_files.drafted(wishes.output, wishes.model, whole, arrays, head) as draft:
        (canary,) = canary_files.read([draft])
        found = (await examine(triton, canary)).finding
        if not found.ok:
            raise Rejected(
                f"{wishes.model}: fails what was recorded of it, so nothing was written:"
                f" {found.reason}: {found.detail}"
            )
