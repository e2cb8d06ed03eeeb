"""The faults of the table in docs/health.md: each as a scenario, with the verdict that it leads to.

A fault is injected into the primary of a mesh that serves `faulty` and `faulty_stream`, under load.
That table and tests/chaos/test_mesh_faults.py are made of these declarations.
"""

from dataclasses import dataclass
from functools import partial

from sidecar.drill.injections.models import (
    another_version,
    loading_slowly,
    misbehaving,
    unloaded,
)
from sidecar.drill.injections.processes import stubs_frozen, stubs_killed, triton_frozen
from sidecar.drill.misbehaving_models import STREAM, UNARY
from sidecar.drill.samples import Kind
from sidecar.drill.scenario import Expectation, Injection, Scenario
from sidecar.drill.scenarios.models import BUSY
from sidecar.drill.stage.mesh import MeshStage
from sidecar.settings.tables.health import HealthSettings
from sidecar.verdict.evidence import Reason
from tests.support.faults.stages import cut, queued, settings, swallowed
from tests.support.mesh.mesh_outside import ROOT

MODELS = tuple(ROOT / "triton_models" / name for name in (UNARY, STREAM))
CLIENTS, STREAMS = 16, 2
QUEUED = 200  # clients that make a queue
LOADING = 20  # seconds that a model takes to load

# As the models' canary.toml and the sidecar's defaults have them, in seconds.
_HEALTH = HealthSettings()
# An instance that misses one answer may be slow; it is probed `fall` times.
_SILENCE = _HEALTH.fall * _HEALTH.server_timeout
_SERVER, _CANARY = _HEALTH.every.server, _HEALTH.every.canary_floor
_LATE, _STALL = 1.0, 3.0
_HUGE = 2.0  # a canary waits behind the answers to all clients
_RELOAD = 1.0  # while Triton exchanges versions it says that it is not ready
_NOTICE = 15.0  # within which a queue causes a warning, if it does
# Only canaries see it: Triton counts a response with an error as a success. One of 28 canaries has
# failed 19 times out of 20; the second then comes soon.
_RARELY = 28 * _CANARY


@dataclass(frozen=True, slots=True)
class Fault:
    """A scenario, and what the table says about it.

    Attributes:
        scenario: what is injected, and what must hold.
        state: the state of the verdict that it leads to; empty if the verdict must not change.
        reasons: the codes that name the fault rightly.
        interval: seconds between two looks of the layer that can see it.
        window: seconds in which nothing can tell it from something harmless.
        wrong: the kind of requests that get wrong answers until the verdict; None if none do.
        proxied: it is in the connections between Envoy, sidecars and Tritons.
    """

    scenario: Scenario[MeshStage]
    state: str
    reasons: frozenset[Reason] = frozenset()
    interval: float = _CANARY
    window: float = 0.0
    wrong: Kind | None = None
    proxied: bool = False

    @property
    def name(self) -> str:
        """What the table calls it."""
        return self.scenario.title


def _critical(
    name: str,
    inject: Injection[MeshStage],
    *reasons: Reason,
    state: str = "CRITICAL",
    interval: float = _CANARY,
    window: float = 0.0,
    wrong: Kind | None = None,
    cuts: bool = False,
    proxied: bool = False,
) -> Fault:
    """A fault after which another instance is primary.

    `cuts`: it cuts the victim's streams.
    """
    named = frozenset(reasons)
    expects = Expectation(
        moves_role=True, reasons=named, wrong_until_verdict=wrong is not None, cuts_streams=cuts
    )
    hypothesis = f"The verdict is {state}, another instance becomes primary, and no request fails."
    scenario = Scenario(name, name, hypothesis, inject, expects=expects, lasts=0.0)
    return Fault(scenario, state, named, interval, window, wrong, proxied)


def _warning(
    name: str, inject: Injection[MeshStage], *, window: float = 0.0, lasts: float = 0.0
) -> Fault:
    """A fault that makes an instance slow, which stays primary.

    `lasts`: it need not warn, but may within so many seconds.
    """
    named = frozenset[Reason]() if lasts else BUSY
    expects = Expectation(moves_role=False, reasons=named, stays_healthy=True)
    hypothesis = "The verdict may warn, the primary stays, and no request fails."
    scenario = Scenario(name, name, hypothesis, inject, expects=expects, lasts=lasts)
    return Fault(scenario, "WARNING", BUSY, window=window)


def _rejected(name: str, inject: Injection[MeshStage]) -> Fault:
    """Settings with which the sidecar does not work; it keeps those that it has."""
    expects = Expectation(moves_role=False, stays_healthy=True)
    hypothesis = "The sidecar keeps its settings and its verdict, and no request fails."
    return Fault(Scenario(name, name, hypothesis, inject, expects=expects, lasts=0.0), "")


_server = partial(_critical, interval=_SERVER)
# The first line of the canary of `faulty` in the sidecar's settings.
_TABLE = f"[canary.{UNARY}]\n"
BROKEN = (_TABLE, f"[canary.{UNARY}\n")
_NAME = 'name = "text", '
_TEXT = 'datatype = "BYTES", shape = [1], data = ["Which trees stand by the water?"]'
_NUMBER = 'datatype = "INT32", shape = [1], data = [7]'


def rarely_failing(name: str, share: float) -> Fault:
    """A share of the requests fails."""
    inject = misbehaving(fault="error", share=share)
    return _critical(name, inject, Reason.CANARY_FAILED, window=_RARELY)


FAULTS = (
    _critical(
        "wrong answer", misbehaving(fault="wrong"), Reason.CANARY_WRONG_ANSWER, wrong="unary"
    ),
    _critical("NaN", misbehaving(fault="nan"), Reason.CANARY_WRONG_ANSWER, wrong="unary"),
    _critical(
        "empty stream",
        misbehaving(STREAM, fault="empty"),
        Reason.CANARY_WRONG_ANSWER,
        wrong="stream",
    ),
    _critical(
        "degenerate text",
        misbehaving(STREAM, fault="degenerate"),
        Reason.CANARY_WRONG_ANSWER,
        wrong="stream",
    ),
    _critical("error every time", misbehaving(fault="error"), Reason.CANARY_FAILED),
    rarely_failing("error one time in ten", 0.1),
    _critical(
        "hang in execute",
        misbehaving(fault="hang", until_restart=True),
        Reason.MODEL_HUNG,
        window=_STALL,
        cuts=True,
    ),
    _warning("slow x 20", misbehaving(fault="slow", factor=20), window=_LATE),
    _warning(f"{QUEUED} queued requests", queued(QUEUED), lasts=_NOTICE),
    _critical("stub process SIGKILLed", stubs_killed(UNARY), Reason.MODEL_STUB_DIED, cuts=True),
    _critical(
        "all stubs SIGKILLed", stubs_killed(UNARY, STREAM), Reason.MODEL_STUB_DIED, cuts=True
    ),
    _critical(
        "all stubs SIGSTOPped",
        stubs_frozen(UNARY, STREAM),
        Reason.MODEL_HUNG,
        window=_STALL,
        cuts=True,
    ),
    _server(
        "tritonserver SIGSTOPped",
        triton_frozen,
        Reason.SERVER_UNANSWERED,
        window=_SILENCE,
        cuts=True,
    ),
    _server(
        "gRPC port cut, HTTP answers",
        cut,
        Reason.PORT_UNREACHABLE,
        Reason.SERVER_UNANSWERED,
        cuts=True,
        proxied=True,
    ),
    _server("model unloaded", unloaded, Reason.MODEL_NOT_READY),
    _server("wrong version loaded", another_version, Reason.MODEL_WRONG_VERSION, window=_RELOAD),
    _server(
        f"model loads for {LOADING} s",
        loading_slowly(LOADING),
        Reason.PORT_UNREACHABLE,
        Reason.SERVER_NOT_READY,
        Reason.MODEL_NOT_READY,
        state="STARTING",
        cuts=True,
    ),
    _server(
        "accepted, never answered",
        swallowed,
        Reason.SERVER_UNANSWERED,
        window=_SILENCE,
        cuts=True,
        proxied=True,
    ),
    _critical(
        "huge answer",
        misbehaving(fault="huge", mebibytes=17),
        Reason.CANARY_TOO_LARGE,
        Reason.CANARY_WRONG_ANSWER,
        window=_HUGE,
        wrong="unary",
    ),
    _rejected("canary file broken", settings(*BROKEN, rejected=True)),
    _critical("canary: unknown tensor", settings(_NAME, 'name = "tex", '), Reason.CONFIG),
    _critical("canary: wrong datatype", settings(_TEXT, _NUMBER), Reason.CONFIG),
)
