"""The questions to the demo models, judged by the answers of a Triton that counts as right.

Where the model is served that misbehaves on order, it gets every second unary request.

Acts: tritonclient.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
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
_Asked = Mapping[Kind, Sequence[demo_questions.Question]]


class DemoModels:
    """Implements `Questions` with tinychat_unary and tinychat."""

    kinds: Sequence[Kind] = ("unary", "stream")

    def __init__(self, asked: _Asked, right: RightAnswers) -> None:
        self._asked, self._right = asked, right

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncIterator["_Client"]:
        """A client of the gRPC server at host:port."""
        async with aio.InferenceServerClient(address, channel_args=_CHANNEL) as client:
            yield _Client(client, self._asked, self._right)


async def demo_models(reference: str) -> DemoModels:
    """The questions, with the answers of the Triton at a host:port as the right ones.

    Raises:
        Unavailable: it does not answer.
    """
    try:
        asked = await _served(reference)
        questions = [question for kind in asked.values() for question in kind]
        return DemoModels(asked, await demo_questions.right_answers(reference, questions))
    except FAILED as error:
        said = demo_questions.complaint(error)
        raise Unavailable(f"the Triton at {reference} does not answer: {said}") from error


async def _served(reference: str) -> _Asked:
    async with aio.InferenceServerClient(reference) as client:
        misbehaves = await client.is_model_ready(demo_questions.FAULTY)
    unary = [demo_questions.ask, *([demo_questions.ask_faulty] if misbehaves else [])]
    return {"unary": unary, "stream": [demo_questions.generate]}


class _Client:
    def __init__(
        self, client: aio.InferenceServerClient, asked: _Asked, right: RightAnswers
    ) -> None:
        self._client, self._asked, self._right = client, asked, right

    async def ask(self, kind: Kind, turn: int) -> Reply:
        """Send a prompt and compare the answer."""
        choice = self._asked[kind]
        question = choice[turn % len(choice)]
        prompt = PROMPTS[turn // len(choice) % len(PROMPTS)]
        try:
            answer = await question(self._client, prompt)
        except FAILED as error:
            return Reply("failed", detail=demo_questions.complaint(error)[:SHOWN])
        if answer.text == self._right[question, prompt]:
            return Reply("answered", answer.instance, answer.began_on)
        detail = f"{prompt!r} answered {answer.text!r}"[:SHOWN]
        return Reply("wrong", answer.instance, answer.began_on, detail)
