"""What Triton is asked and what it says, as values, and what the door to it promises. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor with KServe's name of its datatype, which NumPy cannot always tell.

    `array` has the tensor's shape. BYTES are an object array of `bytes`; BF16, which NumPy does
    not know, is float32.
    """

    datatype: str
    array: NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A model's input or output; -1 in `shape` is a variable extent, a batch's being the first."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a Triton says of one model that is loaded.

    `stateful` models take sequences of requests, as many at a time as they have slots; one of which
    nothing comes for `sequence_idle` seconds loses its slot; `string_ids` is whether the
    correlation ids of these are strings. `priority_levels` is 0 where requests
    have no priority; otherwise 1 is the highest and this the lowest. Each version runs in so many
    `instances`. `config` is without what fits the model to its host; `steps` are the models that an
    ensemble is composed of. Where it is `cached`, Triton answers by itself what was asked before.
    One that `refuses` has a queue that does so for load. Triton's rate limiter, if it is on, has
    the model wait for `resources`, which others may share.
    """

    name: str
    versions: tuple[str, ...] = ()
    config: bytes = b""
    decoupled: bool = False
    stateful: bool = False
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    max_batch_size: int = 0
    priority_levels: int = 0
    sequence_idle: float = 0.0
    instances: int = 0
    steps: tuple[str, ...] = ()
    cached: bool = False
    string_ids: bool = False
    refuses: bool = False
    resources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """An inference: one step, or the steps of one whole sequence for a stateful model.

    `outputs` names those to ask for, and whether as the best class instead of as scores (Triton's
    classification extension); without any, all outputs come as they are. Each request has the
    `parameters` and the `id`, if that is not empty.
    """

    model: str
    steps: tuple[Mapping[str, Tensor], ...]
    version: str = ""
    decoupled: bool = False
    stateful: bool = False
    string_ids: bool = False
    priority: int = 0
    outputs: tuple[tuple[str, bool], ...] = ()
    parameters: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The outputs by name, put together if they came in several responses.

    Text is joined into one element, numbers are flattened and put in a row. Of a sequence these
    are the outputs of its last step. `responses` counts those that carried outputs; `first` is
    the seconds until the first one, `seconds` until the last.
    """

    outputs: Mapping[str, Tensor]
    responses: int = 1
    first: float = 0.0
    seconds: float = 0.0

    @property
    def size(self) -> int:
        """About how many bytes it has."""
        return sum(
            sum(map(len, each.array.flat)) if each.datatype == "BYTES" else each.array.nbytes
            for each in self.outputs.values()
        )


@dataclass(frozen=True, slots=True)
class Statistics:
    """What Triton has counted of one version of a model since it was loaded; times in seconds.

    `responses` counts those of decoupled models, each single one; `inferences` counts elements of
    batches, `executions` the batches. `cached` of the successes Triton has answered from its cache.
    """

    model: str
    version: str
    successes: int = 0
    failures: int = 0
    inferences: int = 0
    executions: int = 0
    responses: int = 0
    success_seconds: float = 0.0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    cached: int = 0


class IndexEntry(NamedTuple):
    """A version of a model in Triton's index, or a model of which no version was ever loaded.

    `state` is READY, LOADING, UNLOADING or UNAVAILABLE, with the `reason` of the last; state and
    version are empty of what was never loaded.
    """

    name: str
    version: str
    state: str
    reason: str


class TritonApi(Protocol):
    """One Triton server.

    Every method takes its deadline in seconds and raises `DeadlineExceeded` when it passes,
    `Unavailable` when Triton cannot be reached, `Overloaded` when a model's queue has no room or
    has kept the request for longer than its policy allows, `Rejected` when Triton answers with an
    error or with something that cannot be read, `AnswerTooLarge` when an answer exceeds the bound.
    """

    async def connect(self, timeout: float) -> None:
        """Open a TCP connection to the gRPC port and close it again; `Refused` if it is closed."""

    async def disconnected(self) -> None:
        """Return when an established connection is lost; never if there is none to lose."""

    async def server_live(self, timeout: float) -> bool:
        """Whether Triton calls itself live."""

    async def server_ready(self, timeout: float) -> bool:
        """Whether Triton calls itself ready."""

    async def server_version(self, timeout: float) -> str:
        """Triton's version, such as `2.51.0`."""

    async def model_ready(self, model: str, timeout: float, version: str = "") -> bool:
        """Whether Triton calls a model ready; one that it does not know is not."""

    async def describe(self, model: str, timeout: float) -> ModelDescription:
        """Versions, tensors and configuration of a loaded model."""

    async def infer(self, request: InferenceRequest, timeout: float) -> Answer:
        """One inference over gRPC, by the call that clients of such a model use."""

    async def statistics(self, timeout: float) -> tuple[Statistics, ...]:
        """What is counted for every version of every loaded model."""

    async def load_model(self, model: str, timeout: float) -> None:
        """Load a model, or load it anew if its files have changed; return when it can be asked.

        Triton goes on loading when the deadline has passed. `Rejected` if it cannot load the model,
        `Disabled` if it loads none on demand because it is not in explicit mode.
        """

    async def unload_model(self, model: str, timeout: float) -> None:
        """Begin to unload a model, with those of an ensemble that nothing else needs.

        It takes no more requests once this returns, and is UNAVAILABLE in the index once those in
        flight are answered. Unloading what is not loaded is no error. `Disabled` as for
        `load_model`.
        """

    async def repository_index(self, timeout: float) -> tuple[IndexEntry, ...]:
        """Every version of every model that Triton knows of, and its state."""
