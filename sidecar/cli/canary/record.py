"""Records a canary: asks a model, and writes what to expect of its answers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sidecar import __version__
from sidecar.cli.canary import files, input_parsing, request_fields
from sidecar.cli.canary.input_parsing import Step, Table
from sidecar.cli.canary.request_fields import RequestFields
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
class RecordOptions:
    """What to record: the model, its inputs, and the output file."""

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

    `arrays` go into separate files; `given` are the files that the inputs were read from.
    """

    canary: Canary
    steps: Sequence[Sequence[Table]]
    derived: bool = False
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    given: frozenset[Path] = frozenset()

    def with_fields(self, fields: RequestFields) -> "Question":
        """The question with the other fields of each request."""
        canary = replace(self.canary, parameters=fields.parameters, id=fields.id)
        return replace(self, canary=canary)


@dataclass(frozen=True, slots=True)
class Written:
    """The arrays that were written next to a canary's file, and older ones that were removed."""

    arrays: Mapping[Path, NDArray[Any]]
    removed: Sequence[Path]


Show = Callable[[Question, Sequence[Answer], Proposal], None]


async def record_canary(
    options: RecordOptions, show: Show, headers: Callable[[], Mapping[str, str]] = dict
) -> Written:
    """Ask, show, write, and verify that the written canary passes; `headers` go with each call.

    Raises:
        ConfigError: the options cannot be used; nothing was written.
        Unavailable: Triton cannot be reached, or does not answer in time.
        Rejected: the model is not ready, refuses the question, or fails its recorded canary.
    """
    given = input_parsing.from_file(options.inputs_file) if options.inputs_file else []
    fields = request_fields.from_flags(options.parameters, options.id)
    if options.inputs_file:
        fields = fields.over(request_fields.from_file(options.inputs_file))
    async with Triton(options.triton, options.max_answer, headers) as triton:
        await reach(triton, options.triton)
        found, described = await check_model(triton, options.model, "", _DESCRIBE)
        if described is None:
            raise Rejected(found.detail)
        if options.inputs:
            given = [input_parsing.from_flags(options.inputs, described)]
        question = _given(given, described) if given else _derived(options, described)
        question = question.with_fields(fields)
        outputs = (propose.file_name(options.output.stem, each.name) for each in described.outputs)
        _refuse(options, question, [*question.arrays, *outputs])
        answers = await _asked(options, triton, question.canary, described)
        proposal = propose.propose(answers, options.output.stem)
        proposal.remarks[:0] = propose.differences(described, answers)
        show(question, answers, proposal)
        if not proposal.expect:
            other = "; other inputs may, with --input or --inputs" if question.derived else ""
            nothing = "its answers have nothing in common that could be expected"
            raise Rejected(f"{options.model}: {nothing}{other}")
        return await _write(
            options, triton, question, proposal, _table(described, question, answers)
        )


async def _asked(
    options: RecordOptions, triton: TritonApi, canary: Canary, described: ModelDescription
) -> list[Answer]:
    question = canary.request(described)
    try:
        return [await triton.infer(question, options.timeout) for _ in range(options.times)]
    except DeadlineExceeded as error:
        text = f"{options.model}: no answer within {options.timeout:g} s; --timeout allows more"
        raise DeadlineExceeded(text) from error
    except AnswerTooLarge as error:
        bound = f"more than {options.max_answer} bytes, which health.max_answer allows a sidecar"
        text = f"{options.model}: the answer has {bound}; --max-answer tries another bound"
        raise AnswerTooLarge(text) from error


def _given(steps: Sequence[Step], described: ModelDescription) -> Question:
    values = input_parsing.tensors(steps, described)
    tables = [step.tables for step in steps]
    named = frozenset(
        Path(each["file"]).resolve() for step in tables for each in step if "file" in each
    )
    return Question(Canary(described.name, tuple(values), ()), tables, given=named)


def _derived(options: RecordOptions, described: ModelDescription) -> Question:
    canary = derive(described)
    if isinstance(canary, str):
        raise ConfigError(f"{options.model}: {canary}; give its inputs with --input or --inputs")
    tables, arrays = propose.inputs(canary.steps[0], options.output.stem)
    return Question(canary, [tables], derived=True, arrays=arrays)


def _refuse(options: RecordOptions, question: Question, names: Iterable[str]) -> None:
    """Check that arrays may be written under these names, next to the output.

    Raises:
        ConfigError: one of them exists, or the inputs are read from one of the files.
    """
    places = [options.output.parent / name for name in names]
    given = {*question.given, *([options.inputs_file.resolve()] if options.inputs_file else [])}
    for path in (options.output, *places):
        if path.resolve() in given:
            raise ConfigError(f"{path}: an input is read from it; --output names another")
    files.refuse_existing(places, options.force)


def _table(
    described: ModelDescription, question: Question, answers: Sequence[Answer]
) -> dict[str, Any]:
    several = len(question.steps) > 1
    asked = {"steps": question.steps} if several else {"inputs": question.steps[0]}
    canary = question.canary
    fields = {"id": canary.id, "parameters": canary.parameters}
    present = {key: value for key, value in fields.items() if value}
    return {**asked, **present, **propose.latency(answers, described.decoupled)}


async def _write(
    options: RecordOptions,
    triton: TritonApi,
    question: Question,
    proposal: Proposal,
    table: Mapping[str, Any],
) -> Written:
    arrays = {**question.arrays, **proposal.arrays}
    _refuse(options, question, arrays)
    places = {options.output.parent / name: array for name, array in arrays.items()}
    old = {
        path
        for path in files.arrays_of(options.output)
        if path not in places and path.resolve() not in question.given
    }
    head = f"{__version__}, from {options.times} answers."
    whole = {**table, "expect": proposal.expect}
    with files.drafted(options.output, options.model, whole, arrays, head) as draft:
        canary = files.read_back(draft, options.output)
        found = (await examine(triton, canary)).finding
        if not found.ok:
            raise Rejected(
                f"{options.model}: fails its own recorded canary, so nothing was written:"
                f" {found.reason}: {found.detail}"
            )
    return Written(places, files.remove(old))
