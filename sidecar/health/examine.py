"""Asks one canary once, as `triton-sidecar canary test` does."""

from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.errors import AnswerTooLarge, DeadlineExceeded, SidecarError
from sidecar.health.canary import Canary, misfit
from sidecar.health.derive import derive
from sidecar.health.evidence import Finding, Layer, Reason
from sidecar.health.expectations import judge
from sidecar.health.progress import Counted, Progress, answered
from sidecar.triton_api import Answer, ModelDescription, TritonApi

_TIMEOUT = 10.0  # seconds for whatever is no inference


@dataclass(frozen=True, slots=True)
class Examined:
    """What became of one canary; without an answer if there came none."""

    finding: Finding
    answer: Answer | None = None
    derived: bool = False


async def examine_all(
    triton: TritonApi, canaries: Sequence[Canary], derived: Sequence[str] = ()
) -> list[Examined]:
    """Ask one after the other; of the models in `derived` what can be derived from themselves.

    Raises:
        Unavailable: Triton cannot be reached at all.
    """
    await triton.server_live(_TIMEOUT)
    found = [await examine(triton, canary) for canary in canaries]
    return found + [await _examine_derived(triton, model) for model in derived]


async def examine(triton: TritonApi, canary: Canary) -> Examined:
    """Ask one canary; its timeout and its budgets hold."""
    model = canary.model

    def failed(reason: Reason, detail: str, layer: Layer = Layer.CANARY) -> Examined:
        return Examined(Finding(layer, model, reason, detail), derived=canary.derived)

    try:
        if not await triton.model_ready(model, _TIMEOUT):
            return failed(Reason.MODEL_NOT_READY, "not ready, or not loaded", Layer.MODEL)
        described = await triton.describe(model, _TIMEOUT)
        if canary.version and not await triton.model_ready(model, _TIMEOUT, canary.version):
            detail = f"expected version {canary.version}, loaded is {', '.join(described.versions)}"
            return failed(Reason.MODEL_WRONG_VERSION, detail, Layer.MODEL)
        if fault := misfit(canary, described):
            return failed(Reason.CONFIG, fault)
        return await _ask(triton, canary, described)
    except AnswerTooLarge as error:
        return failed(Reason.CANARY_TOO_LARGE, str(error))
    except DeadlineExceeded as error:
        return failed(Reason.CANARY_UNANSWERED, str(error))
    except SidecarError as error:
        return failed(Reason.CANARY_FAILED, str(error))


async def _ask(triton: TritonApi, canary: Canary, described: ModelDescription) -> Examined:
    patience = max(canary.timeout, canary.budgets.fail or 0.0, canary.budgets.first_fail or 0.0)
    answer = await triton.infer(canary.question(described), patience)
    if fault := judge(canary.expectations, answer):
        reason, model = Reason.CANARY_WRONG_ANSWER, canary.model
        finding = Finding(Layer.CANARY, model, reason, fault, answer.seconds)
    else:
        finding = answered(canary, answer, 0.0, Progress(Counted()))
    return Examined(finding, answer, canary.derived)


async def _examine_derived(triton: TritonApi, model: str) -> Examined:
    try:
        canary = derive(await triton.describe(model, _TIMEOUT))
    except SidecarError as error:
        return Examined(Finding(Layer.MODEL, model, Reason.MODEL_NOT_READY, str(error)), None, True)
    if isinstance(canary, str):
        return Examined(Finding(Layer.CANARY, model, Reason.CONFIG, canary), None, True)
    return await examine(triton, canary)
