"""The API of Triton as the sidecar uses it: requests and answers as values, `TritonApi`. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor with KServe's name for its datatype, which NumPy's dtype does not always determine.

    `array` has the tensor's shape. BYTES is an object array of `bytes`; BF16, which NumPy lacks, is
    float32.
    """

    datatype: str
    array: NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A model's input or output; -1 in `shape` is a variable extent, the batch extent is first."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """Triton's description of one loaded model.

    A `stateful` model takes sequences of requests, one per slot at a time; a sequence without a
    request for `sequence_idle` seconds loses its slot. `string_ids` is whether correlation ids are
    strings. `priority_levels` is 0 where requests have no priority; otherwise 1 is the highest and
    this the lowest. Each version runs in so many `instances`. `config` leaves out the fields that
    adapt the model to its host; `steps` are the models of an ensemble. A `cached` model's repeated
    requests are answered by Triton's response cache. `refuses` is whether its queue refuses
    requests under load. Triton's rate limiter, if enabled, makes the model wait for `resources`,
    which other models may share.
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
    """An inference: one step, or for a stateful model the steps of one whole sequence.

    `outputs` names the outputs to request, each with whether to return the best class instead of
    scores (Triton's classification extension); if empty, all outputs are returned as they are. Each
    step's request has the `parameters`, and the `id` if that is not empty.
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
    """The outputs by name, concatenated over all responses of a stream.

    Text is joined into one element, numbers are flattened and concatenated. For a sequence these
    are the outputs of its last step. `responses` counts the responses with outputs; `first` is the
    seconds until the first one, `seconds` until the last.
    """

    outputs: Mapping[str, Tensor]
    responses: int = 1
    first: float = 0.0
    seconds: float = 0.0

    @property
    def size(self) -> int:
        """Its approximate size in bytes."""
        return sum(
            sum(map(len, each.array.flat)) if each.datatype == "BYTES" else each.array.nbytes
            for each in self.outputs.values()
        )


@dataclass(frozen=True, slots=True)
class Statistics:
    """Triton's counters for one version of a model since it was loaded; times in seconds.

    `responses` counts each response of a decoupled model; `inferences` counts elements of batches,
    `executions` batches. `cached` counts the successes that came from the response cache.
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

    `state` is READY, LOADING, UNLOADING or UNAVAILABLE, the last with a `reason`. State and version
    are empty for a model that was never loaded.
    """

    name: str
    version: str
    state: str
    reason: str


class TritonApi(Protocol):
    """One Triton server.

    Every method takes a timeout in seconds and raises `DeadlineExceeded` when it expires,
    `Unavailable` when Triton cannot be reached, `Overloaded` when a model's queue is full or kept
    the request longer than its policy allows, `Rejected` when Triton answers with an error or with
    something unreadable, and `AnswerTooLarge` when an answer exceeds the limit.
    """

    async def connect(self, timeout: float) -> None:
        """Open a TCP connection to the gRPC port and close it again; `Refused` if it is closed."""

    async def disconnected(self) -> None:
        """Return when an established connection is lost; never if there is none to lose."""

    async def server_live(self, timeout: float) -> bool:
        """Whether Triton reports itself live."""

    async def server_ready(self, timeout: float) -> bool:
        """Whether Triton reports itself ready."""

    async def server_version(self, timeout: float) -> str:
        """Triton's version, such as `2.51.0`."""

    async def model_ready(self, model: str, timeout: float, version: str = "") -> bool:
        """Whether Triton reports a model ready; False for a model that it does not know."""

    async def describe(self, model: str, timeout: float) -> ModelDescription:
        """The versions, tensors and configuration of a loaded model."""

    async def infer(self, request: InferenceRequest, timeout: float) -> Answer:
        """Run one inference over gRPC, by the call that clients of such a model use."""

    async def statistics(self, timeout: float) -> tuple[Statistics, ...]:
        """The counters of every version of every loaded model."""

    async def load_model(self, model: str, timeout: float) -> None:
        """Load a model, or reload it if its files have changed; return when it is ready.

        Triton continues to load after the timeout. `Rejected` if it cannot load the model,
        `Disabled` if it is not in explicit mode.
        """

    async def unload_model(self, model: str, timeout: float) -> None:
        """Begin to unload a model and the steps of an ensemble that nothing else needs.

        It accepts no requests once this returns, and is UNAVAILABLE in the index once those in
        flight are answered. Unloading a model that is not loaded is no error. `Disabled` as for
        `load_model`.
        """

    async def repository_index(self, timeout: float) -> tuple[IndexEntry, ...]:
        """Every version of every model that Triton knows, and its state."""
