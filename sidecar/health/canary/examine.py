"""Sends canaries once and judges their answers, for `triton-sidecar canary test`.

Acts: through what it imports or is given.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from sidecar.health.canary.definition import Canary
from sidecar.health.canary.derived_canary import DerivedCanary
from sidecar.health.canary.judge import fault, misfit
from sidecar.health.probes.loaded_model import check_model, is_unchanged
from sidecar.health.progress import Counted, Progress, answered
from sidecar.runtime.errors import (
    AnswerTooLarge,
    ConfigError,
    DeadlineExceeded,
    NotAdmitted,
    Overloaded,
    SidecarError,
    Unavailable,
)
from sidecar.triton.api import Answer, ModelDescription, TritonApi
from sidecar.verdict.evidence import Finding, Layer, Level, Reason

_TIMEOUT = 10.0  # seconds for calls other than inferences
_RETRIES = 2  # for a model that was reloaded in the meantime


@dataclass(frozen=True, slots=True)
class Examined:
    """The result of one canary; `answer` is None if there was none."""

    finding: Finding
    answer: Answer | None = None
    derived: bool = False


async def reach(triton: TritonApi, address: str) -> None:
    """Check that a Triton answers.

    Raises:
        Unavailable: there is none, or it is too slow.
        ConfigError: it does not admit the sidecar.
    """
    try:
        await triton.connect(_TIMEOUT)
        await triton.server_live(_TIMEOUT)
    except NotAdmitted as error:
        raise ConfigError(f"Triton at {address}: {error}") from error
    except SidecarError as error:
        raise Unavailable(f"Triton at {address} cannot be reached: {error}") from error


async def examine_all(
    triton: TritonApi,
    canaries: Sequence[Canary],
    derived: Mapping[str, DerivedCanary] = MappingProxyType({}),
) -> list[Examined]:
    """Send the canaries one after the other, then the derived canary of each model in `derived`."""
    found = [await examine(triton, canary) for canary in canaries]
    for model, canary in derived.items():
        asked = await _examine(triton, model, "", canary.of, True)
        found.append(replace(asked, finding=canary.excused(asked.finding)))
    return found


async def examine(triton: TritonApi, canary: Canary) -> Examined:
    """Send one canary, and check its answer against its timeout and budgets.

    An answer after the timeout does not pass, because a running sidecar reports it as late. This
    still waits as long as the budgets allow, to show the answer.
    """
    model, version = canary.model, canary.version
    return await _examine(triton, model, version, lambda described: canary, canary.derived)


async def _examine(
    triton: TritonApi,
    model: str,
    version: str,
    make: Callable[[ModelDescription], Canary | str],
    derived: bool,
) -> Examined:
    """Send the canary made for a model; retry if the model has changed in the meantime."""
    retries = _RETRIES
    while True:
        found, answer, described = await _look_and_ask(triton, model, version, make)
        if not retries or described is None or found.level is not Level.CRITICAL:
            break
        if await is_unchanged(triton, described, _TIMEOUT):
            break
        retries -= 1
    detail = found.detail.removeprefix(f"{model}: ")
    return Examined(replace(found, detail=detail), answer, derived)


async def _look_and_ask(
    triton: TritonApi, model: str, version: str, make: Callable[[ModelDescription], Canary | str]
) -> tuple[Finding, Answer | None, ModelDescription | None]:
    found, described = await check_model(triton, model, version, _TIMEOUT)
    if described is None:
        return found, None, None
    found, answer = await _ask(triton, make(described), described)
    return found, answer, described


async def _ask(
    triton: TritonApi, canary: Canary | str, described: ModelDescription
) -> tuple[Finding, Answer | None]:
    """Send a canary, or report why there is none."""

    def failed(reason: Reason, detail: str) -> tuple[Finding, None]:
        return Finding(Layer.CANARY, described.name, reason, detail), None

    if isinstance(canary, str):
        return failed(Reason.CONFIG, canary)
    if why := misfit(canary, described):
        return failed(Reason.CONFIG, why)
    patience = max(canary.timeout, canary.budgets.fail or 0.0, canary.budgets.first_fail or 0.0)
    try:
        answer = await triton.infer(canary.request(described), patience)
    except AnswerTooLarge as error:
        return failed(Reason.CANARY_TOO_LARGE, str(error))
    except DeadlineExceeded:
        return failed(Reason.CANARY_UNANSWERED, f"no answer within {patience:g} s")
    except NotAdmitted as error:
        return failed(Reason.CONFIG, str(error))
    except Overloaded as error:
        return failed(Reason.MODEL_BUSY, str(error))
    except SidecarError as error:
        return failed(Reason.CANARY_FAILED, str(error))
    return _judged(canary, described, answer), answer


def _judged(canary: Canary, described: ModelDescription, answer: Answer) -> Finding:
    """The finding for an answer without other traffic, so that no queue excuses its time."""
    if wrong := fault(canary, described, answer):
        reason, why = wrong
        return Finding(Layer.CANARY, canary.model, reason, why, answer.seconds)
    found = answered(canary, answer, 0.0, Progress(Counted()))
    over = "; ".join(_exceeded(canary, answer))
    late = answer.seconds > canary.timeout and found.level is not Level.CRITICAL
    return replace(found, reason=Reason.CANARY_LATE if late else found.reason, detail=over)


def _exceeded(canary: Canary, answer: Answer) -> Iterator[str]:
    """How long an answer took, and which bounds that exceeds, by their keys in the file."""
    budgets = canary.budgets
    whole = {"timeout": canary.timeout, "latency.warn": budgets.warn, "latency.fail": budgets.fail}
    first = {"latency.first_warn": budgets.first_warn, "latency.first_fail": budgets.first_fail}
    for what, seconds, bounds in (
        ("answered", answer.seconds, whole),
        ("began to answer", answer.first, first),
    ):
        over = [
            f"{key} ({bound:g} s)"
            for key, bound in bounds.items()
            if bound is not None and seconds > bound
        ]
        if over:
            yield f"{what} after {seconds:.3g} s, above {', '.join(over)}"
