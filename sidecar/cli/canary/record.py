"""Records a canary: asks a model, and writes down what to expect of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sidecar import __version__
from sidecar.cli.canary import extras as canary_extras
from sidecar.cli.canary import files
from sidecar.cli.canary import inputs as canary_inputs
from sidecar.cli.canary.extras import Extras
from sidecar.cli.canary.inputs import Step, Table
from sidecar.health.canary import propose
from sidecar.health.canary.definition import Canary
from sidecar.health.canary.derive import derive
from sidecar.health.canary.examine import examine, reach
from sidecar.health.canary.propose import Proposal
from sidecar.health.probes.loaded_model import check_model
from sidecar.runtime.errors import AnswerTooLarge, ConfigError, DeadlineExceeded, Rejected
from sidecar.triton.api import Answer, ModelDescription, TritonApi
from sidecar.triton.client import MAX_ANSWER, Triton

_DESCRIBE = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to record: of which model, with which inputs, and where it goes."""

    model: str
    triton: str
    output: Path
    inputs: Sequence[str] = ()
    inputs_file: Path | None = None
    parameters: Sequence[str] = ()
    id: str | None = None
    times: int = 5
    timeout: float = 60.0
    max_answer: int = MAX_ANSWER
    force: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """The steps to ask, as tables for the file and as a canary without expectations.

    `arrays` belong into files of their own; `given` are files that the inputs were read from.
    """

    canary: Canary
    steps: Sequence[Sequence[Table]]
    derived: bool = False
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    given: frozenset[Path] = frozenset()

    def besides(self, extras: Extras) -> "Question":
        """The question with what each request has besides its inputs."""
        canary = replace(self.canary, parameters=extras.parameters, id=extras.id)
        return replace(self, canary=canary)


@dataclass(frozen=True, slots=True)
class Written:
    """The arrays that were written beside a canary's file, and those of an older one, removed."""

    arrays: Mapping[Path, NDArray[Any]]
    removed: Sequence[Path]


Show = Callable[[Question, Sequence[Answer], Proposal], None]


async def record_canary(
    wishes: Wishes, show: Show, headers: Callable[[], Mapping[str, str]] = dict
) -> Written:
    """Ask, show, write, and see that what was written passes; `headers` go with each call.

    Raises:
        ConfigError: the wishes cannot be met; nothing was written.
        Unavailable: Triton cannot be reached, or does not answer in time.
        Rejected: the model is not ready, refuses the question, or fails what was recorded of it.
    """
    given = canary_inputs.from_file(wishes.inputs_file) if wishes.inputs_file else []
    extras = canary_extras.from_flags(wishes.parameters, wishes.id)
    if wishes.inputs_file:
        extras = extras.over(canary_extras.from_file(wishes.inputs_file))
    async with Triton(wishes.triton, wishes.max_answer, headers) as triton:
        await reach(triton, wishes.triton)
        found, described = await check_model(triton, wishes.model, "", _DESCRIBE)
        if described is None:
            raise Rejected(found.detail)
        if wishes.inputs:
            given = [canary_inputs.from_flags(wishes.inputs, described)]
        question = _given(given, described) if given else _derived(wishes, described)
        question = question.besides(extras)
        outputs = (propose.file_name(wishes.output.stem, each.name) for each in described.outputs)
        _refuse(wishes, question, [*question.arrays, *outputs])
        answers = await _asked(wishes, triton, question.canary, described)
        proposal = propose.propose(answers, wishes.output.stem)
        proposal.remarks[:0] = propose.differences(described, answers)
        show(question, answers, proposal)
        if not proposal.expect:
            other = "; other inputs may, with --input or --inputs" if question.derived else ""
            nothing = "its answers have nothing in common that could be expected"
            raise Rejected(f"{wishes.model}: {nothing}{other}")
        return await _write(
            wishes, triton, question, proposal, _table(described, question, answers)
        )


async def _asked(
    wishes: Wishes, triton: TritonApi, canary: Canary, described: ModelDescription
) -> list[Answer]:
    question = canary.request(described)
    try:
        return [await triton.infer(question, wishes.timeout) for _ in range(wishes.times)]
    except DeadlineExceeded as error:
        text = f"{wishes.model}: no answer within {wishes.timeout:g} s; --timeout allows more"
        raise DeadlineExceeded(text) from error
    except AnswerTooLarge as error:
        bound = f"more than {wishes.max_answer} bytes, which health.max_answer allows a sidecar"
        text = f"{wishes.model}: the answer has {bound}; --max-answer tries another bound"
        raise AnswerTooLarge(text) from error


def _given(steps: Sequence[Step], described: ModelDescription) -> Question:
    values = canary_inputs.tensors(steps, described)
    tables = [step.tables for step in steps]
    named = frozenset(
        Path(each["file"]).resolve() for step in tables for each in step if "file" in each
    )
    return Question(Canary(described.name, tuple(values), ()), tables, given=named)


def _derived(wishes: Wishes, described: ModelDescription) -> Question:
    canary = derive(described)
    if isinstance(canary, str):
        raise ConfigError(f"{wishes.model}: {canary}; give its inputs with --input or --inputs")
    tables, arrays = propose.inputs(canary.steps[0], wishes.output.stem)
    return Question(canary, [tables], derived=True, arrays=arrays)


def _refuse(wishes: Wishes, question: Question, names: Iterable[str]) -> None:
    """See that arrays may be written under these names, beside the output.

    Raises:
        ConfigError: one of them exists, or a file is what the inputs are read from.
    """
    places = [wishes.output.parent / name for name in names]
    given = {*question.given, *([wishes.inputs_file.resolve()] if wishes.inputs_file else [])}
    for path in (wishes.output, *places):
        if path.resolve() in given:
            raise ConfigError(f"{path}: an input is read from it; --output names another")
    files.refuse_existing(places, wishes.force)


def _table(
    described: ModelDescription, question: Question, answers: Sequence[Answer]
) -> dict[str, Any]:
    several = len(question.steps) > 1
    asked = {"steps": question.steps} if several else {"inputs": question.steps[0]}
    canary = question.canary
    extras = {"id": canary.id, "parameters": canary.parameters}
    said = {key: value for key, value in extras.items() if value}
    return {**asked, **said, **propose.latency(answers, described.decoupled)}


async def _write(
    wishes: Wishes,
    triton: TritonApi,
    question: Question,
    proposal: Proposal,
    table: Mapping[str, Any],
) -> Written:
    arrays = {**question.arrays, **proposal.arrays}
    _refuse(wishes, question, arrays)
    places = {wishes.output.parent / name: array for name, array in arrays.items()}
    old = {
        path
        for path in files.arrays_of(wishes.output)
        if path not in places and path.resolve() not in question.given
    }
    head = f"{__version__}, from {wishes.times} answers."
    whole = {**table, "expect": proposal.expect}
    with files.drafted(wishes.output, wishes.model, whole, arrays, head) as draft:
        canary = files.read_back(draft, wishes.output)
        found = (await examine(triton, canary)).finding
        if not found.ok:
            raise Rejected(
                f"{wishes.model}: fails its own recorded canary, so nothing was written:"
                f" {found.reason}: {found.detail}"
            )
    return Written(places, files.remove(old))
