"""Scenarios of models that misbehave while their Triton says that it is ready."""

from sidecar.drill.injections import models
from sidecar.drill.scenario import Expectation, Need, Scenario
from sidecar.drill.stage.mesh import MeshStage
from sidecar.verdict.evidence import Reason

_NEEDS: frozenset[Need] = frozenset({"processes", "models"})
BUSY = frozenset({Reason.MODEL_BUSY, Reason.CANARY_SLOW, Reason.CANARY_LATE, Reason.TRAFFIC_SLOW})

SCENARIOS: tuple[Scenario[MeshStage], ...] = (
    Scenario(
        "wrong-answers",
        "wrong answers",
        "Nothing fails, so only a canary notices. Within two intervals of canaries the verdict is "
        "critical, and a standby becomes primary. Clients get wrong answers until then, and none "
        "after.",
        models.misbehaving(fault="wrong"),
        needs=_NEEDS,
        expects=Expectation(
            moves_role=True,
            reasons=frozenset({Reason.CANARY_WRONG_ANSWER}),
            wrong_until_verdict=True,
        ),
    ),
    Scenario(
        "errors",
        "a model fails every request",
        "Envoy retries each request on a standby, which becomes primary. No request fails.",
        models.misbehaving(fault="error"),
        needs=_NEEDS,
        expects=Expectation(moves_role=True, reasons=frozenset({Reason.CANARY_FAILED})),
    ),
    Scenario(
        "hung-model",
        "a model hangs in execute",
        "The model finishes nothing while its canary waits. A standby becomes primary, and the "
        "sidecar restarts the Triton, which cuts its streams. No request fails.",
        models.misbehaving(fault="hang"),
        needs=_NEEDS,
        expects=Expectation(
            moves_role=True, reasons=frozenset({Reason.MODEL_HUNG}), cuts_streams=True
        ),
    ),
    Scenario(
        "cached-answers",
        "Triton's response cache hides a dead model",
        "The model finishes nothing, and clients still get right answers to what was asked before. "
        "The canary changes each time, so that the cache cannot answer it: a standby becomes "
        "primary, and the sidecar restarts the Triton, which cuts its streams. No request fails.",
        models.hidden_by_cache,
        needs=frozenset({"processes", "cache"}),
        expects=Expectation(
            moves_role=True, reasons=frozenset({Reason.MODEL_HUNG}), cuts_streams=True
        ),
    ),
    Scenario(
        "gpu-memory",
        "GPU memory exhausted",
        "A model fails every request, as on a GPU without free memory, and cannot be reloaded "
        "either; Triton says that it is ready. A standby becomes primary, and the sidecar restarts "
        "the Triton, which frees the memory. No request fails and no stream is cut.",
        models.gpu_memory_exhausted,
        needs=_NEEDS,
        expects=Expectation(moves_role=True, reasons=frozenset({Reason.CANARY_FAILED})),
    ),
    Scenario(
        "slow",
        "a model is twenty times slower",
        "The instance is slow, not broken: a warning, and it stays primary. No request fails.",
        models.misbehaving(fault="slow", factor=20),
        needs=_NEEDS,
        expects=Expectation(moves_role=False, reasons=BUSY, stays_healthy=True),
        only_primary=True,  # on a standby nothing waits, and its canaries are fast enough
    ),
    Scenario(
        "unloaded",
        "a model is unloaded behind the sidecar's back",
        "The sidecar sees it within a second, and a standby becomes primary. No request fails.",
        models.unloaded,
        needs=_NEEDS,
        expects=Expectation(moves_role=True, reasons=frozenset({Reason.MODEL_NOT_READY})),
    ),
)
