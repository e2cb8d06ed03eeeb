"""The last look at primaries and notifications, while the role may still move."""

import json
from collections.abc import Sequence

import pytest

from sidecar.drill.samples import Mark
from sidecar.drill.soak import primaries
from sidecar.drill.soak.notifications import ALERTS, DOCUMENTS, Received
from sidecar.drill.soak.tenures import Tenure
from sidecar.notify.alerts import alert
from sidecar.notify.documents import RoleChange, Sender, document

pytestmark = pytest.mark.contract
FIRST, SECOND, THIRD = Tenure(5, "triton-0"), Tenure(9, "triton-1"), Tenure(12, "triton-2")
SEEN = (Mark(1.0, "primary", FIRST.instance, epoch=FIRST.epoch),)


def announced(*tenures: Tenure) -> tuple[Received, ...]:
    changes = [
        RoleChange(Sender("triton", each.instance), 1.0, "standby", "primary", each.epoch, "")
        for each in tenures
    ]
    return tuple(
        received
        for change in changes
        for received in (
            Received(DOCUMENTS, json.dumps(document(change))),
            Received(ALERTS, json.dumps([alert(change, 2.0, 60.0)])),
        )
    )


class Mesh:
    """The role moves while the notifications are read, as long as there are `moves`."""

    def __init__(self, *moves: Tenure) -> None:
        self.moves = list(moves)
        self.tenures, self.notified = [FIRST], [FIRST]

    async def history(self) -> Sequence[Tenure]:
        return tuple(self.tenures)

    def received(self) -> Sequence[Received]:
        if self.moves:
            self.tenures.append(self.moves.pop(0))
            self.notified.append(self.tenures[-1])
        return announced(*self.notified)


async def codes(mesh: Mesh, published: Sequence[Tenure] = ()) -> list[str]:
    found = await primaries.violations(mesh.history, mesh.received, SEEN, published)
    return [each.code for each in found]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primaries, "_LOOK", 0.0)
    monkeypatch.setattr(primaries, "_DELIVERY", 0.05)


async def test_a_role_that_moves_while_notifications_are_read_is_no_second_primary() -> None:
    assert await codes(Mesh(SECOND, THIRD)) == []


async def test_the_last_primary_is_the_one_of_the_last_look() -> None:
    mesh = Mesh(THIRD)
    mesh.tenures.append(SECOND)  # never announced, and not the last one for long
    assert await codes(mesh) == []


async def test_a_last_primary_that_was_never_announced_is_found() -> None:
    mesh = Mesh()
    mesh.tenures.append(SECOND)
    assert await codes(mesh) == ["lost_notifications"] * 2


async def test_a_claim_that_the_history_lacks_is_found() -> None:
    assert await codes(Mesh(), [Tenure(6, "triton-2")]) == ["primaries"]


async def test_nothing_needs_an_announcement_if_the_role_never_moved() -> None:
    mesh = Mesh()
    mesh.notified.clear()
    assert await codes(mesh) == []
