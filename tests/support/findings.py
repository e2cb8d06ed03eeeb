"""Findings about a server and two models, and a state machine that processes them."""

from collections.abc import Sequence

from sidecar.health.decision import (
    History,
    assess,
    begin,
)
from sidecar.health.track import TrackRules
from sidecar.verdict.evidence import SERVER, Finding, Layer, Reason
from sidecar.verdict.verdict import Verdict

RULES = TrackRules(rise=2, fall=3, repeat=2, window=6, grace=10.0, hold=0.0, max_hold=60.0)
MODELS = ("chat", "embed")
Round = tuple[Finding, ...]


def of_server(layer: Layer = Layer.PORT, reason: Reason = Reason.OK, detail: str = "") -> Finding:
    return Finding(layer, SERVER, reason, detail)


def canary(model: str, reason: Reason = Reason.OK, detail: str = "", strain: float = 1) -> Finding:
    return Finding(Layer.CANARY, model, reason, detail, strain=strain)


SERVER_FINE = tuple(of_server(layer) for layer in (Layer.PORT, Layer.LIVE, Layer.READY))
READY = tuple(Finding(Layer.MODEL, model, Reason.OK) for model in MODELS)
GOOD = (*SERVER_FINE, *READY, *map(canary, MODELS))
PORT = (of_server(Layer.PORT, Reason.PORT_UNREACHABLE, "connection refused"),)


def chat(reason: Reason, detail: str = "", strain: float = 1) -> Round:
    """A round of findings that are OK, apart from the chat model's canary."""
    return (*SERVER_FINE, *READY, canary("embed"), canary("chat", reason, detail, strain))


WRONG = chat(Reason.CANARY_WRONG_ANSWER, "chat: got 1")
LATE = chat(Reason.CANARY_UNANSWERED)
BUSY = chat(Reason.MODEL_BUSY)
SLOW = chat(Reason.CANARY_SLOW)


class Run:
    """Rounds of findings, a second apart by default, and the resulting states."""

    def __init__(self, rules: TrackRules = RULES, models: Sequence[str] = MODELS) -> None:
        self.rules = rules
        self.now = 0.0
        self.history: History = begin(models, 0.0)
        self.verdicts: list[Verdict] = []

    def rounds(self, *rounds: Round, step: float = 1.0) -> "Run":
        for findings in rounds:
            self.now += step
            self.history, verdict = assess(self.history, findings, self.rules, self.now)
            self.verdicts.append(verdict)
        return self

    @property
    def states(self) -> list[str]:
        return [verdict.state.value for verdict in self.verdicts]

    @property
    def last(self) -> Verdict:
        return self.verdicts[-1]


def states(*rounds: Round, rules: TrackRules = RULES) -> list[str]:
    return Run(rules).rounds(*rounds).states
