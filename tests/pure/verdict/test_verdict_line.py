"""The one line of a verdict that programs read, and Consul's text around it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.consul.api import Check
from sidecar.health.report import report
from sidecar.registry import checks
from sidecar.verdict import verdict_line
from sidecar.verdict.evidence import Finding, Layer, Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import ParsedLine, State

# All that can be written: report() encodes it.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.sampled_from(State), st.sampled_from(Reason), TEXT, TEXT)
def test_a_written_line_can_be_read(state: State, reason: Reason, detail: str, found: str) -> None:
    evidence = (Finding(Layer.CANARY, "chat", Reason.CANARY_FAILED, found),)
    line = report(Verdict(state, reason, detail), evidence)
    parsed = verdict_line.parse(line)
    assert parsed is not None
    assert (parsed.state, parsed.reason) == (state, reason)
    # A detail that is too long is cut at its end.
    assert " ".join(detail.split()).startswith(parsed.detail)


@given(st.sampled_from(State), st.sampled_from(Reason))
def test_an_empty_detail_is_read_as_none(state: State, reason: Reason) -> None:
    for detail in ("", " \n"):
        assert verdict_line.parse(verdict_line.write(state, reason, detail)) == ParsedLine(
            state, reason
        )


@pytest.mark.parametrize(
    "output",
    [
        *("", "PASSING", "PASSING ", "passing OK", "Passing OK", " PASSING OK", "PASSING  OK"),
        *("PASSING ok", "PASSING OK:", "PASSING OK: ", "PASSING OK and more", "PASSING OK,"),
        *("PASSINGOK", "UNHEARD OK", "STARTING up: wait", "\nPASSING OK", "PASSING\nOK"),
        *("TTL expired", "gRPC check 127.0.0.1:1/live: success", "PASSING _OK", "PASSING 1"),
    ],
)
def test_any_other_output_is_no_verdict(output: str) -> None:
    assert verdict_line.parse(output) is None


@given(st.text())
def test_any_text_can_be_parsed(output: str) -> None:
    parsed = verdict_line.parse(output)
    assert parsed is None or output.startswith(f"{parsed.state.upper()} ")


def test_a_code_that_only_newer_versions_know_is_valid() -> None:
    parsed = verdict_line.parse("CRITICAL GPU_ON_FIRE_2: it burns\nmore")
    assert parsed == ParsedLine(State.CRITICAL, None, "it burns")


LAPSED = "TTL expired (last output before timeout follows): "


@pytest.mark.parametrize(
    ("output", "now", "last"),
    [
        ("COLD COLD_STANDBY: w", ParsedLine(State.COLD, Reason.COLD_STANDBY, "w"), State.COLD),
        (
            "PASSING OK ... (captured 10 of 900 bytes)",
            ParsedLine(State.PASSING, Reason.OK),
            State.PASSING,
        ),
        (
            "WARNING GPU_H ... (captured 13 of 99 bytes)",
            ParsedLine(State.WARNING, None),
            State.WARNING,
        ),
        (LAPSED + "PASSING OK", None, State.PASSING),
        (LAPSED + "PASSING OK ... (captured 10 of 900 bytes)", None, State.PASSING),
        (LAPSED + "WARNING GPU_HOT: 91: too hot", None, State.WARNING),
        ("TTL expired", None, None),
        (LAPSED + "else", None, None),
        ("", None, None),
    ],
)
def test_consuls_text_around_a_line_is_ignored(
    output: str, now: ParsedLine | None, last: State | None
) -> None:
    check = Check("a:verdict", "Triton verdict", "critical", output, "a")
    assert checks.pushed_line(check) == now
    parsed = checks.last_pushed_line(check)
    assert (parsed and parsed.state) == last


def test_only_the_verdict_check_carries_a_verdict() -> None:
    for other in ("a:sidecar", "disk", "b:verdict", "a:verdict:x"):
        check = Check(other, "", "critical", "PASSING OK", "a")
        assert checks.last_pushed_line(check) is None
        assert not checks.is_inconclusive(check)
