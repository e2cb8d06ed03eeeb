"""The questions to the demo models, judged by the answers of a Triton that counts as right.

Acts: tritonclient.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tritonclient.grpc import aio

from sidecar.drill.load.questions import SHOWN, Reply
from sidecar.drill.samples import Kind
from sidecar.local import demo_questions
from sidecar.local.demo_questions import FAILED, PROMPTS, RightAnswers
from sidecar.runtime.errors import Unavailable

# As tritonclient's own, but each client has a connection of its own, like clients in several
# processes; gRPC would share one among all to the same address.
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]
_ASKED = {"unary": demo_questions.ask, "stream": demo_questions.generate}


class DemoModels:
    """Implements `Questions` with tinychat_unary and tinychat."""

    kinds: Sequence[Kind] = ("unary", "stream")

    def __init__(self, right: RightAnswers) -> None:
        self._right = right

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncIterator["_Client"]:
        """A client of the gRPC server at host:port."""
        async with aio.InferenceServerClient(address, channel_args=_CHANNEL) as client:
            yield _Client(client, self._right)


async def demo_models(reference: str) -> DemoModels:
    """The questions, with the answers of the Triton at a host:port as the right ones.

    Raises:
        Unavailable: it does not answer.
    """
    try:
        return DemoModels(await demo_questions.right_answers(reference))
    except FAILED as error:
        said = demo_questions.complaint(error)
        raise Unavailable(f"the Triton at {reference} does not answer: {said}") from error


class _Client:
    def __init__(self, client: aio.InferenceServerClient, right: RightAnswers) -> None:
        self._client, self._right = client, right

    async def ask(self, kind: Kind, turn: int) -> Reply:
        """Send a prompt and compare the answer."""
        question, prompt = _ASKED[kind], PROMPTS[turn % len(PROMPTS)]
        try:
            answer = await question(self._client, prompt)
        except FAILED as error:
            return Reply("failed", detail=demo_questions.complaint(error)[:SHOWN])
        if answer.text == self._right[question, prompt]:
            return Reply("answered", answer.instance, answer.began_on)
        detail = f"{prompt!r} answered {answer.text!r}"[:SHOWN]
        return Reply("wrong", answer.instance, answer.began_on, detail)
