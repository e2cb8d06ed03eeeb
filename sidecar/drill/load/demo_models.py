"""The questions to the demo models, judged by the answers of a Triton that counts as right.

Where models are served that misbehave on order, each gets as many requests of its kind as the demo
model. The one whose answers Triton caches is only asked if that is wanted: its latencies are not
those of a model.

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

# As tritonclient's own, but each client has a separate connection, like clients in several
# processes; gRPC would share one among all to the same address.
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]
_Asked = Mapping[Kind, Sequence[demo_questions.Question]]
_Questions = Mapping[str, demo_questions.Question]
_CACHED: _Questions = {demo_questions.CACHED: demo_questions.ask_cached}
_QUESTIONS: Mapping[Kind, _Questions] = {
    "unary": {
        demo_questions.UNARY: demo_questions.ask,
        demo_questions.FAULTY: demo_questions.ask_faulty,
    },
    "stream": {
        demo_questions.STREAM: demo_questions.generate,
        demo_questions.FAULTY_STREAM: demo_questions.generate_faulty,
    },
}


class DemoModels:
    """Implements `Questions` with those demo models that are served."""

    def __init__(self, asked: _Asked, right: RightAnswers) -> None:
        self._asked, self._right = asked, right

    @property
    def kinds(self) -> Sequence[Kind]:
        """The kinds of requests for which a model is served."""
        return tuple(kind for kind, questions in self._asked.items() if questions)

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncIterator["_Client"]:
        """A client of the gRPC server at host:port."""
        async with aio.InferenceServerClient(address, channel_args=_CHANNEL) as client:
            yield _Client(client, self._asked, self._right)


async def demo_models(reference: str, *, cached: bool) -> DemoModels:
    """The questions, with the answers of the Triton at a host:port as the right ones.

    Args:
        reference: host:port of that Triton.
        cached: whether the model whose answers Triton caches is asked, too.

    Raises:
        Unavailable: it does not answer, or has none of the models ready.
    """
    try:
        asked = await _served(reference, cached=cached)
        questions = [question for kind in asked.values() for question in kind]
        if not questions:
            raise Unavailable(f"the Triton at {reference} has no demo model ready")
        return DemoModels(asked, await demo_questions.right_answers(reference, questions))
    except FAILED as error:
        said = demo_questions.complaint(error)
        raise Unavailable(f"the Triton at {reference} does not answer: {said}") from error


async def _served(reference: str, *, cached: bool) -> _Asked:
    wanted = {**_QUESTIONS, "unary": {**_QUESTIONS["unary"], **(_CACHED if cached else {})}}
    async with aio.InferenceServerClient(reference) as client:
        return {
            kind: [ask for model, ask in models.items() if await client.is_model_ready(model)]
            for kind, models in wanted.items()
        }


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
