"""What a load asks a mesh, and how it judges the answer: the demo models' prompts, or canaries."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from sidecar.drill.load.spec import LoadSpec, OpenLoop
from sidecar.drill.samples import Kind, Outcome
from sidecar.runtime.errors import ConfigError

DEADLINE = 30.0  # seconds; a request that takes longer has failed
SHOWN = 200  # characters of what was wrong


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of one request.

    `instance` answered it; `began_on` sent the first response of a stream. Both are empty if that
    is not known. `detail` is the client's error, or what was wrong about the answer.
    """

    outcome: Outcome
    instance: str = ""
    began_on: str = ""
    detail: str = ""


class Client(Protocol):
    """One client with its connection."""

    async def ask(self, kind: Kind, turn: int) -> Reply:
        """Send a request, wait for its answer and judge it. `turn` chooses among the questions.

        A request that fails is a reply, not an error.
        """


class Questions(Protocol):
    """Requests whose right answers are known."""

    @property
    def kinds(self) -> Sequence[Kind]:
        """The kinds of requests that it has."""

    def connect(self, address: str) -> AbstractAsyncContextManager[Client]:
        """A client of the gRPC server at host:port."""


def check_kinds(spec: LoadSpec, questions: Questions) -> None:
    """Check that there are questions for each kind of client.

    Raises:
        ConfigError: there are not; lists every mistake.
    """
    mistakes = []
    if (isinstance(spec, OpenLoop) or spec.clients) and "unary" not in questions.kinds:
        what = "rate" if isinstance(spec, OpenLoop) else "clients"
        mistakes.append(f"--load: {what}: no unary requests: every model that is asked streams")
    if spec.streams and "stream" not in questions.kinds:
        mistakes.append("--load: expected streams=0: no model that is asked streams")
    if mistakes:
        raise ConfigError("\n".join(mistakes))
