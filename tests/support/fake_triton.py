"""A scripted `TritonApi` in memory, on a given clock."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import (
    AnswerTooLarge,
    DeadlineExceeded,
    NotFound,
    Rejected,
    SidecarError,
    Unavailable,
)
from sidecar.runtime.latest import first_of
from sidecar.triton.api import Answer, IndexEntry, InferenceRequest, ModelDescription, Statistics
from sidecar.triton.client import MAX_ANSWER

Reply = Answer | Callable[[InferenceRequest], Answer]


@dataclass
class FakeModel:
    """A model and its behaviour; every field may be changed while it runs.

    A model that is not `loaded` cannot be described, and is not `ready`. Loading it takes
    `load_delay` seconds and fails with `load_error`. A model that `counts_early` counts a request
    when its work begins, as streams are.

    `statistics` are counted as in Triton: at the end of an execution, whatever its outcome.
    `asked` are the requests so far, `in_flight` the number of unanswered ones; `answered`
    is the response cache of a model that has one.
    """

    description: ModelDescription
    reply: Reply = field(default_factory=lambda: Answer({}))
    delay: float = 0.0
    error: SidecarError | None = None
    hung: bool = False
    counts_errors: bool = True
    counts_early: bool = False
    ready: bool = True
    loaded: bool = True
    load_delay: float = 0.0
    load_error: SidecarError | None = None
    statistics: Statistics = field(default_factory=lambda: Statistics("", ""))
    asked: list[InferenceRequest] = field(default_factory=list)
    in_flight: int = 0
    answered: dict[str, Answer] = field(default_factory=dict)
    cancelled: int = 0

    def __post_init__(self) -> None:
        self.ready = self.ready and self.loaded
        version = self.description.versions[-1] if self.description.versions else "1"
        self.statistics = replace(
            self.statistics, model=self.description.name, version=self.statistics.version or version
        )

    def count(self, **more: float) -> None:
        """Add to the statistics, as requests of other clients would."""
        sums = {name: getattr(self.statistics, name) + value for name, value in more.items()}
        self.statistics = replace(self.statistics, **sums)


class FakeTriton:
    """A server with models by name.

    Every call raises `error`, such as a refused connection. A `frozen` server answers no request,
    and still accepts connections, as does one that answers every
    call with `refusal`. `orders` are the requests to load
    and to unload a model so far, such as `"load chat"`.
    """

    def __init__(self, clock: Clock, *models: FakeModel, max_answer: int = MAX_ANSWER) -> None:
        self.clock = clock
        self.models = {model.description.name: model for model in models}
        self.max_answer = max_answer
        self.error: SidecarError | None = None
        self.refusal: SidecarError | None = None
        self._thawed = asyncio.Event()
        self._thawed.set()
        self.live = self.ready = True
        self.ready_error: SidecarError | None = None
        self.version = "2.51.0"
        self.statistics_error: SidecarError | None = None
        self.others: tuple[Statistics, ...] = ()  # of further versions
        self.version_error: SidecarError | None = None
        self.index_error: SidecarError | None = None
        self._lost = asyncio.Event()
        self.orders: list[str] = []

    @property
    def frozen(self) -> bool:
        """Whether it answers no request; pending ones are answered afterwards."""
        return not self._thawed.is_set()

    @frozen.setter
    def frozen(self, frozen: bool) -> None:
        (self._thawed.clear if frozen else self._thawed.set)()

    def lose_connections(self) -> None:
        """Close the connections, so that `disconnected` returns."""
        self._lost.set()
        self._lost = asyncio.Event()

    async def connect(self, timeout: float) -> None:
        if self.error:
            raise self.error

    async def disconnected(self) -> None:
        await self._lost.wait()

    async def server_live(self, timeout: float) -> bool:
        await self._answers(timeout)
        return self.live

    async def server_ready(self, timeout: float) -> bool:
        await self._answers(timeout)
        if self.ready_error:
            raise self.ready_error
        return self.ready

    async def server_version(self, timeout: float) -> str:
        await self._answers(timeout)
        if self.version_error:
            raise self.version_error
        return self.version

    async def model_ready(self, model: str, timeout: float, version: str = "") -> bool:
        await self._answers(timeout)
        found = self.models.get(model)
        if found is None or (version and version not in found.description.versions):
            return False
        return found.ready

    async def describe(self, model: str, timeout: float) -> ModelDescription:
        await self._answers(timeout)
        found = self._model(model)
        if not found.loaded:
            raise NotFound(f"NOT_FOUND: Request for unknown model: {model!r} has no versions")
        return found.description

    async def infer(self, request: InferenceRequest, timeout: float) -> Answer:
        await self._answers(timeout)
        model = self._model(request.model, request.version)
        if not model.ready:
            raise Unavailable(f"UNAVAILABLE: Request for unknown model: {request.model!r}")
        model.asked.append(request)
        model.in_flight += 1
        try:
            return await self._inference(model, request, timeout)
        except asyncio.CancelledError:
            model.cancelled += 1
            raise
        finally:
            model.in_flight -= 1

    async def statistics(self, timeout: float) -> tuple[Statistics, ...]:
        await self._answers(timeout)
        if self.statistics_error:
            raise self.statistics_error
        return (
            *(model.statistics for model in self.models.values() if model.ready),
            *self.others,
        )

    async def load_model(self, model: str, timeout: float) -> None:
        await self._answers(timeout)
        self.orders.append(f"load {model}")
        found = self.models.get(model)
        if found is None:
            raise Rejected(f"INTERNAL: failed to load {model!r}, failed to poll from repository")
        if found.load_delay:
            await self.clock.sleep(min(found.load_delay, timeout))
        if found.load_delay >= timeout:
            raise DeadlineExceeded("no answer in time")
        if found.load_error:
            raise found.load_error
        if not found.loaded:
            found.statistics = Statistics(found.statistics.model, found.statistics.version)
        found.loaded = found.ready = True

    async def unload_model(self, model: str, timeout: float) -> None:
        await self._answers(timeout)
        self.orders.append(f"unload {model}")
        if model in self.models:
            self.models[model].loaded = self.models[model].ready = False

    async def repository_index(self, timeout: float) -> tuple[IndexEntry, ...]:
        await self._answers(timeout)
        if self.index_error:
            raise self.index_error
        return tuple(
            IndexEntry(name, version, "READY", "")
            if model.ready
            else IndexEntry(name, version, "UNAVAILABLE", "unloaded")
            for name, model in self.models.items()
            for version in model.description.versions or ("1",)
        )

    async def _inference(
        self, model: FakeModel, request: InferenceRequest, timeout: float
    ) -> Answer:
        began = self.clock.now()
        asked = request.steps if model.description.cached else ()
        key = str([{name: each.array.tolist() for name, each in step.items()} for step in asked])
        if key in model.answered:
            model.count(successes=1, cached=1)
            return model.answered[key]
        if model.counts_early:
            model.count(successes=1, executions=1)
        if model.hung or model.delay >= timeout:
            await self.clock.sleep(timeout)
            raise DeadlineExceeded("no answer in time")
        if model.delay:
            await self.clock.sleep(model.delay)
        seconds = self.clock.now() - began
        if not model.counts_early and (model.counts_errors or not model.error):
            steps = len(request.steps)
            model.count(
                successes=steps,
                inferences=steps,
                executions=steps,
                success_seconds=seconds,
                compute_seconds=seconds,
            )
        if model.error:
            raise model.error
        answer = model.reply(request) if callable(model.reply) else model.reply
        if answer.size > self.max_answer:
            raise AnswerTooLarge("the answer is larger than it may be")
        answer = replace(answer, first=answer.first or seconds, seconds=answer.seconds or seconds)
        if model.description.cached:
            model.answered[key] = answer
        return answer

    async def _answers(self, timeout: float) -> None:
        if found := self.error or self.refusal:
            raise found
        await first_of(self.clock, timeout, self._thawed.wait())
        if self.frozen:
            raise DeadlineExceeded("no answer in time")

    def _model(self, name: str, version: str = "") -> FakeModel:
        found = self.models.get(name)
        if found is None or (version and version not in found.description.versions):
            raise NotFound(f"NOT_FOUND: Request for unknown model: {name!r} is not found")
        return found


def echo(request: InferenceRequest) -> Answer:
    """The inputs of the last step, each as an output of the same name."""
    return Answer(dict(request.steps[-1]))
