"""Scenarios of processes that die, freeze, or stop."""

from sidecar.drill.injections import processes
from sidecar.drill.scenario import Expectation, Scenario
from sidecar.drill.stage.mesh import MeshStage
from sidecar.local.load import STREAM, UNARY
from sidecar.verdict.evidence import Reason

_UNHARMED = "No request fails and no stream is cut."

SCENARIOS: tuple[Scenario[MeshStage], ...] = (
    Scenario(
        "crash",
        "Triton killed",
        "Envoy retries what was in flight on a standby within milliseconds, which then becomes "
        "primary. No request fails; streams of the killed Triton are cut.",
        processes.triton_killed,
        expects=Expectation(moves_role=True, cuts_streams=True),
        live=True,
    ),
    Scenario(
        "freeze",
        "Triton frozen",
        "Envoy gives up its connections, the sidecar misses its answers, and a standby becomes "
        "primary. No request fails; none waits for longer than the freeze is undetected.",
        processes.triton_frozen,
        expects=Expectation(
            moves_role=True, reasons=frozenset({Reason.SERVER_UNANSWERED}), cuts_streams=True
        ),
        live=True,
    ),
    Scenario(
        "stubs-killed",
        "all stubs of the Python backend killed",
        "Triton still says that it is ready. The sidecar notices the missing processes, and a "
        "standby becomes primary. No request fails.",
        processes.stubs_killed(UNARY, STREAM),
        expects=Expectation(
            moves_role=True, reasons=frozenset({Reason.MODEL_STUB_DIED}), cuts_streams=True
        ),
        live=True,
    ),
    Scenario(
        "stubs-frozen",
        "all stubs of the Python backend frozen",
        "Models accept requests and finish none. The canaries' deadlines pass, or Triton says that "
        "its stubs are not healthy, and a standby becomes primary. No request fails.",
        processes.stubs_frozen(UNARY, STREAM),
        expects=Expectation(
            moves_role=True,
            reasons=frozenset({Reason.MODEL_HUNG, Reason.CANARY_FAILED}),
            cuts_streams=True,
        ),
        live=True,
    ),
    Scenario(
        "flapping",
        "Triton killed ten times in a minute",
        "Each crash costs streams at most. An instance that flaps has to prove itself for longer "
        f"each time before it may become primary again. {_UNHARMED.partition(' and')[0]}.",
        processes.killed_repeatedly(times=10, every=6.0),
        expects=Expectation(moves_role=True, cuts_streams=True),
    ),
    Scenario(
        "sidecar-killed",
        "sidecar killed",
        f"Its Triton serves on; the sidecar starts again and finds its entry. {_UNHARMED}",
        processes.sidecar_killed,
        live=True,
    ),
    Scenario(
        "sidecar-frozen",
        "sidecar frozen",
        "Its Triton serves on. The session lapses, and a standby becomes primary; the old one "
        f"steps down by its own clock. {_UNHARMED}",
        processes.sidecar_frozen,
        expects=Expectation(moves_role=True),
        live=True,
    ),
    Scenario(
        "control-plane-killed",
        "control plane killed",
        f"Envoy keeps its last configuration, and gets the same again. {_UNHARMED}",
        processes.control_plane_killed,
        victim="mesh",
        expects=Expectation(moves_role=False),
    ),
    Scenario(
        "control-plane-restarted",
        "control plane restarted",
        f"Envoy keeps its last configuration, and gets the same again. {_UNHARMED}",
        processes.control_plane_restarted,
        victim="mesh",
        expects=Expectation(moves_role=False),
    ),
    Scenario(
        "graceful-stop",
        "sidecar stopped gracefully",
        f"The primary hands its role over, drains, and ends. {_UNHARMED}",
        processes.stopped_gracefully,
        expects=Expectation(moves_role=True),
    ),
)
