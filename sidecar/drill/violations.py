"""Which objectives and expectations a run did not meet. Pure."""

from collections.abc import Iterator, Sequence

from sidecar.drill.objectives import Objectives
from sidecar.drill.record import Figures, Violation
from sidecar.drill.samples import Mark
from sidecar.drill.scenario import Expectation


def violations(
    figures: Figures,
    expected: Expectation,
    objectives: Objectives,
    marks: Sequence[Mark],
    *,
    injected: float,
    victim: str,
) -> tuple[Violation, ...]:
    """What did not hold, one violation per code.

    Args:
        figures: those of the run.
        expected: what must hold in its scenario.
        objectives: the bounds of its scenario.
        marks: every event of the run, in any order.
        injected: when the fault was injected, on the clock of the marks.
        victim: the instance with the fault, or empty if it is the mesh's.
    """
    ordered = sorted(marks, key=lambda mark: mark.at)
    after = [mark for mark in ordered if mark.at >= injected]
    return (
        *_of_unary(figures, expected, objectives),
        *_of_wrong(figures, expected, objectives),
        *_of_streams(figures, expected),
        *_of_role(figures, expected, objectives),
        *_of_verdict(figures, expected, objectives, after, victim),
        *_of_health(expected, after, victim),
        *_of_recovery(figures, objectives, after, injected),
        *of_epochs(ordered),
    )


def of_epochs(ordered: Sequence[Mark]) -> Iterator[Violation]:
    """Epochs only grow, in Consul and as published, and each belongs to one instance."""
    for event in ("primary", "published"):
        yield from _going_back([mark for mark in ordered if mark.event == event])


def _going_back(ordered: Sequence[Mark]) -> Iterator[Violation]:
    newest, holder = 0, ""
    for mark in ordered:
        epoch = mark.epoch
        if epoch < newest or epoch < 1 or (epoch == newest and mark.instance != holder):
            found = f"{epoch or 'none'} of {mark.instance}"
            yield Violation("epochs", f"more than {newest} of {holder or 'nobody'}", found)
            return
        newest, holder = epoch, mark.instance


def _of_unary(
    figures: Figures, expected: Expectation, objectives: Objectives
) -> Iterator[Violation]:
    if not figures.sent + figures.streams:
        yield Violation("failed", "requests after the injection", "none")
    if figures.failed and not expected.fails:
        yield Violation("failed", "0 requests", f"{figures.failed} of {figures.sent}")
    answered = figures.availability
    if answered is not None and answered < objectives.availability:
        share = f"at least {100 * objectives.availability:.6g} % answered"
        yield Violation("availability", share, f"{100 * answered:.6g} %")
    gap, bound = figures.longest_gap, objectives.longest_gap
    if gap is not None and gap > bound and not expected.fails:
        yield Violation("longest_gap", _at_most(bound), f"{gap:.3f} s")


def _of_wrong(
    figures: Figures, expected: Expectation, objectives: Objectives
) -> Iterator[Violation]:
    if not expected.wrong_until_verdict:
        if figures.wrong:
            yield Violation("wrong", "0 requests", f"{figures.wrong} of {figures.sent}")
        return
    last, window = figures.wrong_last, objectives.wrong_window
    if last is not None and last > window:
        count = figures.wrong + figures.streams_wrong
        yield Violation("wrong", f"none sent after {window:g} s", f"{count}, until {last:.3f} s")
    if figures.wrong_after_verdict:
        found = str(figures.wrong_after_verdict)
        yield Violation("wrong_after_verdict", "0 requests", found)


def _of_streams(figures: Figures, expected: Expectation) -> Iterator[Violation]:
    if figures.streams_cut and not (expected.cuts_streams or expected.fails):
        yield Violation("streams_cut", "0 streams", f"{figures.streams_cut} of {figures.streams}")
    if figures.streams_wrong and not expected.wrong_until_verdict:
        found = f"{figures.streams_wrong} of {figures.streams}"
        yield Violation("streams_wrong", "0 streams", found)


def _of_role(
    figures: Figures, expected: Expectation, objectives: Objectives
) -> Iterator[Violation]:
    moved = figures.decision is not None
    if expected.moves_role is False and moved:
        yield Violation("role_moved", "the same primary", f"another after {figures.decision:.3f} s")
    if not expected.moves_role:
        return
    if not moved:
        yield Violation("role_kept", "another primary", "the same")
    yield from _within("rto", figures.rto, objectives.rto)


def _of_verdict(
    figures: Figures,
    expected: Expectation,
    objectives: Objectives,
    after: Sequence[Mark],
    victim: str,
) -> Iterator[Violation]:
    if not expected.reasons:
        return
    yield from _within("detection", figures.detection, objectives.detection)
    named = {mark.reason for mark in _verdicts(after, victim)} - {""}
    if not named & expected.reasons:
        found = ", ".join(sorted(named)) or "none"
        yield Violation("reason", " or ".join(sorted(expected.reasons)), found)


def _of_health(expected: Expectation, after: Sequence[Mark], victim: str) -> Iterator[Violation]:
    for mark in _verdicts(after, victim):
        if expected.stays_healthy and mark.status == "critical":
            found = f"{mark.instance} is critical {mark.reason}"
            yield Violation("unhealthy", "no critical verdict", found)
            return


def _verdicts(after: Sequence[Mark], victim: str) -> Iterator[Mark]:
    """The verdicts of the victim, or of every instance if it is the mesh."""
    for mark in after:
        if mark.event == "verdict" and (not victim or mark.instance == victim):
            yield mark


def _of_recovery(
    figures: Figures, objectives: Objectives, after: Sequence[Mark], injected: float
) -> Iterator[Violation]:
    """From the removal of the fault, or from the injection if it was not removed."""
    removed = [mark.at - injected for mark in after if mark.event == "restored"]
    took = figures.recovered
    if took is not None and removed:
        took = max(0.0, took - removed[-1])
    yield from _within("recovered", took, objectives.recovered)


def _within(code: str, took: float | None, bound: float) -> Iterator[Violation]:
    if took is None:
        yield Violation(code, _at_most(bound), "never")
    elif took > bound:
        yield Violation(code, _at_most(bound), f"{took:.3f} s")


def _at_most(seconds: float) -> str:
    return f"at most {seconds:g} s"
