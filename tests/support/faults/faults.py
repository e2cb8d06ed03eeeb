"""The faults staged on a real mesh: how each is caused and removed, and its expected outcome.

A stage is done to one instance of a mesh that serves `faulty` and `faulty_stream`, under load. The
table of docs/health.md and tests/chaos/test_mesh_faults.py are made of these declarations.
"""

from dataclasses import dataclass

from sidecar.drill.injections.models import (
    another_version,
    loading_slowly,
    misbehaving,
    unloaded,
)
from sidecar.drill.injections.processes import stubs_frozen, stubs_killed, triton_frozen
from sidecar.drill.misbehaving_models import STREAM, UNARY
from sidecar.drill.scenario import Injection
from sidecar.drill.stage.mesh import MeshStage
from sidecar.settings.tables.health import HealthSettings
from sidecar.verdict.evidence import Reason
from tests.support.faults.stages import QUEUED, cut, queue, settings, swallowed
from tests.support.mesh.mesh_outside import ROOT

MODELS = tuple(ROOT / "triton_models" / name for name in (UNARY, STREAM))
CLIENTS, STREAMS = 16, 2
LOADING = 20  # seconds that a model takes to load

# As the models' canary.toml and the sidecar's defaults have them, in seconds.
_HEALTH = HealthSettings()
# An instance that misses one answer may be slow; it is probed `fall` times.
_SILENCE = _HEALTH.fall * _HEALTH.server_timeout
_SERVER, _CANARY = _HEALTH.every.server, _HEALTH.every.canary_floor
_LATE, _STALL = 1.0, 3.0
_HUGE = 2.0  # a canary waits behind the answers to all clients
_RELOAD = 1.0  # while Triton exchanges versions it says that it is not ready
# Only canaries see it: Triton counts a response with an error as a success. One of 28 canaries has
# failed 19 times out of 20; the second then comes soon.
_RARELY = 28 * _CANARY


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, and what must come of it.

    `state` is the verdict's state as the log has it, `reasons` are the codes that name the fault
    rightly. An empty state says that the verdict must not change. `interval` is how often the layer
    looks that can see it, `window` how long nobody can tell it from something harmless; seconds.
    `reaches_clients`: that some requests fail or are answered wrongly lies in its nature.
    """

    name: str
    state: str
    reasons: frozenset[Reason]
    stage: Injection[MeshStage]
    interval: float = _CANARY
    window: float = 0.0
    reaches_clients: bool = False
    must_be_noticed: bool = True
    proxied: bool = False


# The first line of the canary of `faulty` in the sidecar's settings.
_TABLE = f"[canary.{UNARY}]\n"
BROKEN = (_TABLE, f"[canary.{UNARY}\n")
_NAME = 'name = "text", '
_TEXT = 'datatype = "BYTES", shape = [1], data = ["Which trees stand by the water?"]'
_NUMBER = 'datatype = "INT32", shape = [1], data = [7]'


def _critical(*reasons: Reason) -> tuple[str, frozenset[Reason]]:
    return "CRITICAL", frozenset(reasons)


def _warning(*reasons: Reason) -> tuple[str, frozenset[Reason]]:
    return "WARNING", frozenset(reasons)


_WRONG = _critical(Reason.CANARY_WRONG_ANSWER)
_FAILED = _critical(Reason.CANARY_FAILED)
_BUSY = _warning(Reason.MODEL_BUSY, Reason.CANARY_SLOW, Reason.CANARY_LATE, Reason.TRAFFIC_SLOW)
_CONFIG = _critical(Reason.CONFIG)

FAULTS = (
    Fault("wrong answer", *_WRONG, misbehaving(fault="wrong"), reaches_clients=True),
    Fault("NaN", *_WRONG, misbehaving(fault="nan"), reaches_clients=True),
    Fault("empty stream", *_WRONG, misbehaving(STREAM, fault="empty")),
    Fault("degenerate text", *_WRONG, misbehaving(STREAM, fault="degenerate")),
    Fault("error every time", *_FAILED, misbehaving(fault="error")),
    Fault(
        "error one time in ten",
        *_FAILED,
        misbehaving(fault="error", share=0.1),
        window=_RARELY,
    ),
    Fault(
        "hang in execute",
        *_critical(Reason.MODEL_HUNG),
        misbehaving(fault="hang", until_restart=True),
        window=_STALL,
    ),
    Fault("slow x 20", *_BUSY, misbehaving(fault="slow", factor=20), window=_LATE),
    Fault(f"{QUEUED} queued requests", *_BUSY, queue, must_be_noticed=False),
    Fault(
        "stub process SIGKILLed",
        *_critical(Reason.MODEL_STUB_DIED),
        stubs_killed(UNARY),
    ),
    Fault("all stubs SIGKILLed", *_critical(Reason.MODEL_STUB_DIED), stubs_killed(UNARY, STREAM)),
    Fault(
        "all stubs SIGSTOPped",
        *_critical(Reason.MODEL_HUNG),
        stubs_frozen(UNARY, STREAM),
        window=_STALL,
    ),
    Fault(
        "tritonserver SIGSTOPped",
        *_critical(Reason.SERVER_UNANSWERED),
        triton_frozen,
        interval=_SERVER,
        window=_SILENCE,
    ),
    Fault(
        "gRPC port cut, HTTP answers",
        *_critical(Reason.PORT_UNREACHABLE, Reason.SERVER_UNANSWERED),
        cut,
        interval=_SERVER,
        proxied=True,
    ),
    Fault(
        "model unloaded",
        *_critical(Reason.MODEL_NOT_READY),
        unloaded,
        interval=_SERVER,
    ),
    Fault(
        "wrong version loaded",
        *_critical(Reason.MODEL_WRONG_VERSION),
        another_version,
        interval=_SERVER,
        window=_RELOAD,
    ),
    Fault(
        f"model loads for {LOADING} s",
        "STARTING",
        frozenset({Reason.PORT_UNREACHABLE, Reason.SERVER_NOT_READY, Reason.MODEL_NOT_READY}),
        loading_slowly(LOADING),
        interval=_SERVER,
    ),
    Fault(
        "accepted, never answered",
        *_critical(Reason.SERVER_UNANSWERED),
        swallowed,
        interval=_SERVER,
        window=_SILENCE,
        proxied=True,
    ),
    Fault(
        "huge answer",
        *_critical(Reason.CANARY_TOO_LARGE, Reason.CANARY_WRONG_ANSWER),
        misbehaving(fault="huge", mebibytes=17),
        window=_HUGE,
        reaches_clients=True,
    ),
    Fault("canary file broken", "", frozenset(), settings(*BROKEN)),
    Fault("canary: unknown tensor", *_CONFIG, settings(_NAME, 'name = "tex", ')),
    Fault("canary: wrong datatype", *_CONFIG, settings(_TEXT, _NUMBER)),
)
