"""The check that a model is loaded in the right version, before any canary.

Acts: through what it imports or is given.
"""

from collections.abc import Awaitable, Callable

from sidecar.runtime.errors import NotAdmitted, SidecarError
from sidecar.triton.api import ModelDescription, TritonApi
from sidecar.verdict.evidence import Finding, Layer, Reason


async def check_model(
    triton: TritonApi,
    model: str,
    version: str,
    timeout: float,
    describe: Callable[[], Awaitable[ModelDescription]] | None = None,
) -> tuple[Finding, ModelDescription | None]:
    """The finding on whether a model is ready, and its description if it is.

    Args:
        triton: its server.
        model: its name.
        version: the version that has to be loaded; empty for any.
        timeout: seconds for each call.
        describe: gives the description if it is cached; by default Triton is queried.
    """

    def failed(reason: Reason, detail: str) -> tuple[Finding, None]:
        return Finding(Layer.MODEL, model, reason, f"{model}: {detail}"), None

    try:
        if not await triton.model_ready(model, timeout):
            return failed(Reason.MODEL_NOT_READY, await _why_not(triton, model, timeout))
        if version and not await triton.model_ready(model, timeout, version):
            loaded = ", ".join((await triton.describe(model, timeout)).versions)
            detail = f"expected version {version}, loaded is {loaded}"
            return failed(Reason.MODEL_WRONG_VERSION, detail)
        described = await (describe() if describe else triton.describe(model, timeout))
    except NotAdmitted as error:
        return failed(Reason.CONFIG, str(error))
    except SidecarError as error:
        return failed(Reason.MODEL_UNANSWERED, str(error))
    return Finding(Layer.MODEL, model, Reason.OK), described


async def is_unchanged(triton: TritonApi, described: ModelDescription, timeout: float) -> bool:
    """Whether a model's description is the same as before; False if it cannot be described.

    An answer to a canary that was built from another description says nothing about the model.
    """
    try:
        return await triton.describe(described.name, timeout) == described
    except SidecarError:
        return False


async def _why_not(triton: TritonApi, model: str, timeout: float) -> str:
    """Triton's error for a model that is not ready; readiness itself is only yes or no."""
    try:
        await triton.describe(model, timeout)
    except NotAdmitted:
        raise
    except SidecarError as error:
        return str(error)
    return "Triton reports that it is not ready"
