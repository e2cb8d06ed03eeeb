"""Notifications of a soak: their form, and whether the last primary was announced."""

import json

import pytest

from sidecar.drill.soak.notifications import ALERTS, DOCUMENTS, Received, claims, judged
from sidecar.drill.soak.tenures import Tenure
from sidecar.notify.alerts import alert
from sidecar.notify.documents import Change, DrillChange, RoleChange, Sender, VerdictChange
from sidecar.notify.documents import document as document_of

SENDER, PRIMARY = Sender("triton", "triton-1"), Tenure(9, "triton-1")
ROLE = RoleChange(SENDER, 10.0, "standby", "primary", 9, "the lock was free")
CHANGES: tuple[Change, ...] = (
    RoleChange(SENDER, 1.0, "primary", "standby", 0, ""),
    VerdictChange(SENDER, 2.0, "passing", "critical", False, "MODEL_HUNG", "chat"),
    DrillChange(SENDER, 3.0, "began", "crash", "crash", "root@edge", "", ""),
)


def posted(change: Change) -> tuple[Received, Received]:
    return (
        Received(DOCUMENTS, json.dumps(document_of(change))),
        Received(ALERTS, json.dumps([alert(change, 11.0, 60.0)])),
    )


def codes(*received: Received, primary: Tenure | None = None) -> list[str]:
    return [each.code for each in judged(received, primary)]


@pytest.mark.parametrize("change", CHANGES)
def test_what_sidecars_send_is_well_formed(change: Change) -> None:
    assert codes(*posted(change)) == []


def test_the_last_primary_must_have_been_announced_to_each_receiver() -> None:
    document, alerts = posted(ROLE)
    assert codes(document, alerts, primary=PRIMARY) == []
    assert codes(document, primary=PRIMARY) == ["lost_notifications"]
    assert codes(alerts, primary=PRIMARY) == ["lost_notifications"]
    assert codes(primary=PRIMARY) == ["lost_notifications"] * 2
    assert codes(document, alerts, primary=Tenure(12, "triton-1")) == ["lost_notifications"] * 2


def test_an_alert_announces_the_epoch_of_its_annotation_whatever_its_sentences_say() -> None:
    document, alerts = posted(ROLE)
    [content] = json.loads(alerts.body)
    content["annotations"] |= {"summary": "other words", "description": "other words"}
    reworded = Received(ALERTS, json.dumps([content]))
    assert codes(document, reworded, primary=PRIMARY) == []
    content["annotations"] |= {"epoch": "8", "description": "Epoch 9."}
    earlier = Received(ALERTS, json.dumps([content]))
    assert codes(document, earlier, primary=PRIMARY) == ["lost_notifications"]


@pytest.mark.parametrize(
    "received",
    [
        Received(DOCUMENTS, ""),
        Received(DOCUMENTS, '{"version": 1}'),
        Received(DOCUMENTS, json.dumps(document_of(ROLE) | {"version": 2})),
        Received(DOCUMENTS, json.dumps(document_of(ROLE) | {"event": "another"})),
        Received(DOCUMENTS, json.dumps(document_of(ROLE) | {"epoch": "9"})),
        Received(ALERTS, "[]"),
        Received(ALERTS, json.dumps([{"labels": {}, "annotations": {}}])),
        Received("/elsewhere", json.dumps(document_of(ROLE))),
    ],
)
def test_what_is_malformed_is_found(received: Received) -> None:
    assert codes(received, *posted(ROLE)) == ["malformed_notifications"]


def test_documents_claim_epochs() -> None:
    received = [each for change in (*CHANGES, ROLE) for each in posted(change)]
    assert claims(received) == (PRIMARY,)
