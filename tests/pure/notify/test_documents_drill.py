"""What is sent about a drill: a document for programs, an alert for people."""

import json

import pytest

from sidecar.events import DrillProgressed
from sidecar.notify import alerts
from sidecar.notify.documents import Sender, change_of, document, encode, short

SENDER, AT = Sender("triton", "triton-0"), 1_700_000_000.0


def test_the_document_of_a_drill() -> None:
    event = DrillProgressed("aborted", "night", "freeze", "jane@desk", "lock_lost", "why")
    change = change_of(event, SENDER, AT)
    assert change
    assert json.loads(encode(document(change))) == {
        "version": 1,
        "event": "drill",
        "at": "2023-11-14T22:13:20.000Z",
        "service": "triton",
        "instance": "triton-0",
        "phase": "aborted",
        "scenario": "night",
        "fault": "freeze",
        "by": "jane@desk",
        "code": "lock_lost",
        "why": "why",
    }
    assert short(change) == "drill: night aborted"


@pytest.mark.parametrize("phase", ["began", "ended", "aborted", "refused"])
def test_each_phase_is_an_alert_that_ends_by_itself(phase: str) -> None:
    change = change_of(DrillProgressed(phase, "night", "freeze", "jane@desk", "code"), SENDER, AT)
    assert change
    found = alerts.alert(change, AT + 10, 60.0)
    assert found["labels"] == {
        "alertname": "TritonDrill",
        "service": "triton",
        "instance": "triton-0",
        "severity": "info",
        "scenario": "night",
    }
    assert found["startsAt"] == "2023-11-14T22:13:20.000Z"
    assert found["endsAt"] == "2023-11-14T22:18:30.000Z"
