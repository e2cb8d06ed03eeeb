from sidecar.health.report import report
from sidecar.verdict.evidence import SERVER, Finding, Layer, Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State

EVIDENCE = (
    Finding(Layer.PORT, SERVER, Reason.OK, seconds=0.5),
    Finding(Layer.CANARY, "chat", Reason.CANARY_WRONG_ANSWER, "chat: got 1"),
    Finding(Layer.CANARY, "embed", Reason.OK, remark="derived canary"),
    Finding(Layer.PROGRESS, "chat", Reason.STATISTICS_UNAVAILABLE),
    Finding(Layer.GPU, SERVER, Reason.GPU_UNAVAILABLE),
)


def test_a_verdict_is_reported_with_the_meaning_of_its_reason_and_every_layer() -> None:
    verdict = Verdict(State.CRITICAL, Reason.CANARY_WRONG_ANSWER, "chat: got 1")
    assert report(verdict, EVIDENCE).splitlines() == [
        "CRITICAL CANARY_WRONG_ANSWER: chat: got 1",
        "The canary's answer breaks an expectation: clients get wrong answers, too.",
        "chat: canary CANARY_WRONG_ANSWER, progress STATISTICS_UNAVAILABLE",
        "server: port OK, gpu GPU_UNAVAILABLE",
        "embed: canary OK (derived canary)",
    ]


def test_a_report_fits_into_a_check() -> None:
    many = tuple(Finding(Layer.CANARY, f"mödel{i}" * 9, Reason.OK) for i in range(100))
    hung = Finding(Layer.CANARY, "zoo", Reason.MODEL_HUNG)
    text = report(Verdict(State.PASSING, Reason.OK), (*many, hung))
    assert text.startswith("PASSING OK\nzoo: canary MODEL_HUNG\nmödel0")
    assert len(text.encode()) <= 4096
