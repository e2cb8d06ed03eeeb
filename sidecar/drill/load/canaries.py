"""A sidecar's canaries as questions, for a mesh whose models are the user's own.

A canary of a model that streams its answers is a stream; any other is unary. The expectations of
the canary judge the answer, which does not say which instance gave it.

Acts: through what it imports or is given.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from sidecar.drill.load.questions import DEADLINE, SHOWN, Reply
from sidecar.drill.samples import Kind
from sidecar.health.canary.definition import Canary
from sidecar.health.canary.judge import fault, misfit
from sidecar.runtime.errors import ConfigError, SidecarError, Unavailable
from sidecar.triton.api import ModelDescription, TritonApi
from sidecar.triton.client import Triton

_DESCRIBE = 10.0  # seconds
_Fitted = tuple[Canary, ModelDescription]


class Canaries:
    """Implements `Questions` with canaries and the descriptions of their models."""

    def __init__(self, canaries: Sequence[_Fitted]) -> None:
        self._by_kind: dict[Kind, list[_Fitted]] = {}
        for canary, described in canaries:
            kind: Kind = "stream" if described.decoupled else "unary"
            self._by_kind.setdefault(kind, []).append((canary, described))

    @property
    def kinds(self) -> Sequence[Kind]:
        """The kinds of which there is a canary."""
        return tuple(self._by_kind)

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncIterator["_Client"]:
        """A client of the gRPC server at host:port."""
        async with Triton(address) as triton:
            yield _Client(triton, self._by_kind)


async def fitted(canaries: Sequence[Canary], reference: str) -> Canaries:
    """The canaries as questions; the server at a host:port describes their models.

    Raises:
        Unavailable: it does not.
        ConfigError: canaries do not fit their models; lists every mistake.
    """
    found: list[_Fitted] = []
    async with Triton(reference) as triton:
        for canary in canaries:
            try:
                described = await triton.describe(canary.model, _DESCRIBE)
            except SidecarError as error:
                raise Unavailable(
                    f"{reference} does not describe {canary.model}: {error}"
                ) from error
            found.append((canary, described))
    if mistakes := [why for canary, described in found if (why := misfit(canary, described))]:
        raise ConfigError("\n".join(mistakes))
    return Canaries(found)


class _Client:
    def __init__(self, triton: TritonApi, by_kind: Mapping[Kind, Sequence[_Fitted]]) -> None:
        self._triton, self._by_kind = triton, by_kind

    async def ask(self, kind: Kind, turn: int) -> Reply:
        """Send a canary and judge the answer."""
        choice = self._by_kind[kind]
        canary, described = choice[turn % len(choice)]
        try:
            answer = await self._triton.infer(canary.request(described), DEADLINE)
        except SidecarError as error:
            return Reply("failed", detail=f"{canary.model}: {error}"[:SHOWN])
        if found := fault(canary, described, answer):
            return Reply("wrong", detail=f"{canary.model}: {found[1]}"[:SHOWN])
        return Reply("answered")
