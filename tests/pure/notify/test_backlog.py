"""What receivers get: documents, alerts, and which changes are dropped if there are too many."""

import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.events import Event, Registered, RoleChanged, VerdictChanged
from sidecar.notify.alerts import alert
from sidecar.notify.backlog import LIMIT, Next, after_failure, outdated, pause, put
from sidecar.notify.documents import (
    Change,
    RoleChange,
    Sender,
    Subject,
    VerdictChange,
    change_of,
    document,
    encode,
)
from sidecar.runtime.timestamps import timestamp
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import UNPROVEN, Verdict
from sidecar.verdict.verdict_line import State

AT = datetime(2026, 3, 1, 12, 30, 5, 250_000, UTC).timestamp()
SENDER = Sender("triton", "triton-0")
OK = Verdict(State.PASSING, Reason.OK)
CRITICAL = Verdict(State.CRITICAL, Reason.CANARY_FAILED, "chat: broken pipe")
COMMON = {"version": 1, "at": "2026-03-01T12:30:05.250Z", "service": "triton"}


def role(after: str = "primary", why: str = "") -> RoleChange:
    return RoleChange(SENDER, AT, "standby", after, 17, why)


def verdict(after: State = State.CRITICAL, detail: str = "") -> VerdictChange:
    serving = after in (State.PASSING, State.WARNING)
    return VerdictChange(SENDER, AT, "passing", after.value, serving, "CANARY_FAILED", detail)


@pytest.mark.parametrize(
    ("event", "content"),
    [
        (RoleChanged("standby", "primary", 17, "the lock was free"),
         {"event": "role_change", "before": "standby", "after": "primary", "epoch": 17,
          "why": "the lock was free"}),
        (VerdictChanged(OK, CRITICAL),
         {"event": "verdict_change", "before": "passing", "after": "critical", "serving": False,
          "reason": "CANARY_FAILED", "detail": "chat: broken pipe"}),
        (VerdictChanged(UNPROVEN, OK),
         {"event": "verdict_change", "before": "starting", "after": "passing", "serving": True,
          "reason": "OK", "detail": ""}),
        (RoleChanged("standby", "standby", 0, "asked"), None),
        (VerdictChanged(CRITICAL, Verdict(State.CRITICAL, Reason.MODEL_HUNG)), None),
        (Registered("first time"), None),
    ],
)  # fmt: skip
def test_documents(event: Event, content: dict[str, object] | None) -> None:
    change = change_of(event, SENDER, AT)
    if content is None:
        assert change is None
    else:
        assert change is not None
        assert document(change) == COMMON | {"instance": "triton-0"} | content


@given(st.text(), st.text())
def test_a_document_is_one_line_of_ascii(why: str, detail: str) -> None:
    for change in (role(why=why), verdict(detail=detail)):
        line = encode(document(change))
        assert line.isascii()
        assert line.count(b"\n") == 1
        assert json.loads(line) == document(change)


def test_an_alert_of_a_role_ends_automatically() -> None:
    late = AT + 3600
    assert alert(role(why="the lock was free"), late, 60) == {
        "labels": {"alertname": "TritonRoleChanged", "service": "triton", "instance": "triton-0",
                   "severity": "info", "role": "primary"},
        "annotations": {"summary": "triton-0 is primary, was standby",
                        "description": "the lock was free. Epoch 17.", "epoch": "17"},
        "startsAt": "2026-03-01T12:30:05.250Z",
        "endsAt": "2026-03-01T13:35:05.250Z",
    }  # fmt: skip


def test_an_alert_of_a_role_without_an_epoch_has_no_annotation_for_it() -> None:
    without = RoleChange(SENDER, AT, "primary", "standby", 0, "")
    assert alert(without, AT, 60)["annotations"] == {
        "summary": "triton-0 is standby, was primary",
        "description": "Unknown cause.",
    }


def test_an_alert_lasts_while_critical_lasts() -> None:
    critical = alert(verdict(State.CRITICAL, "chat: broken pipe"), AT + 540, 60)
    passing = alert(verdict(State.PASSING), AT + 540, 60)
    assert critical["annotations"] == {
        "summary": "triton-0 does not serve (CANARY_FAILED)",
        "description": "passing → critical: chat: broken pipe",
    }
    assert critical["labels"] == passing["labels"]  # otherwise the one would not end the other
    assert critical["startsAt"] == "2026-03-01T12:30:05.250Z"
    assert critical["endsAt"] == "2026-03-01T12:43:05.250Z"  # four repetitions from now
    assert passing["endsAt"] == "2026-03-01T12:30:05.250Z"


@pytest.mark.parametrize("state", [each for each in State if each is not State.CRITICAL])
def test_states_that_an_operator_ordered_raise_no_alert(state: State) -> None:
    change = verdict(state)
    assert not change.alarming
    assert alert(change, AT + 1, 60)["endsAt"] == timestamp(AT)


changes = st.one_of(
    st.builds(role, st.sampled_from(["primary", "standby"]), st.text(max_size=3)),
    st.builds(verdict, st.sampled_from(list(State)), st.text(max_size=3)),
)


@given(changes, st.integers(-3600, 3600), st.floats(1, 3600))
def test_alerts_have_the_form_of_alertmanager(change: Change, after: int, resend: float) -> None:
    shaped = alert(change, AT + after, resend)
    assert shaped.keys() == {"labels", "annotations", "startsAt", "endsAt"}
    for texts in (shaped["labels"], shaped["annotations"]):
        assert isinstance(texts, dict)
        assert all(isinstance(text, str) and text for text in texts.values())
        assert all(re.fullmatch("[a-z_]+", name) for name in texts)
    # It rejects alerts that end before they start.
    assert str(shaped["startsAt"]) <= str(shaped["endsAt"])
    for key in ("startsAt", "endsAt"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(shaped[key]))


@given(st.lists(changes, max_size=3 * LIMIT))
def test_the_backlog_is_bounded_ordered_and_keeps_the_newest(given: list[Change]) -> None:
    waiting: tuple[Change, ...] = ()
    dropped = []
    for change in given:
        waiting, drop = put(waiting, change)
        dropped += [drop] if drop else []
        assert len(waiting) <= LIMIT
    assert len(waiting) + len(dropped) == len(given)
    places = [next(i for i, each in enumerate(given) if each is one) for one in waiting]
    assert places == sorted(places)
    for subject in Subject:
        newest = [each for each in given if each.subject is subject][-1:]
        assert [each for each in waiting if each.subject is subject][-1:] == newest


@pytest.mark.parametrize(
    ("waiting", "attempts", "then"),
    [
        ((), 100, Next.AGAIN),  # a receiver that is back has to learn the present state
        ((role(),), 2, Next.AGAIN),
        ((role(),), 3, Next.NEVER),
        ((verdict(),), 3, Next.LAST),
        ((verdict(), role()), 3, Next.NEVER),
    ],
)
def test_what_happens_to_an_undelivered_change(
    waiting: tuple[Change, ...], attempts: int, then: Next
) -> None:
    assert after_failure(waiting, role(), attempts, retries=2) is then


def test_pauses_grow_up_to_a_maximum() -> None:
    assert [pause(n) for n in (1, 2, 3, 4, 5, 6, 7, 10**6)] == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_change_is_outdated_by_a_newer_one_of_the_same_subject() -> None:
    assert outdated((verdict(), role()), role())
    assert not outdated((verdict(),), role())
