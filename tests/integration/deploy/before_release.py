"""For `make test-systemd`: each row of the table in docs/systemd.md, for the units without `@`.

A machine has one such instance, so the events happen one after the other.
"""

from collections.abc import Iterator

import pytest

from tests.support.systemd import root
from tests.support.systemd.events import BOOT, EVENTS, check, happen
from tests.support.systemd.files import lay
from tests.support.systemd.instance import ONE, Instance
from tests.support.systemd.machine import booted

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

EVENTS_OF_ONE = [event for event in EVENTS if event != BOOT and "the target" not in event]


@pytest.fixture(scope="module", params=root.SUITES)
def one(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("machine")
    files = lay(folder / "files", (ONE,), {})
    with booted(root.provide(request.param), files, folder / "console") as machine:
        yield Instance(machine, ONE)


def test_triton_and_its_sidecar_are_up_after_boot(one: Instance) -> None:
    check(BOOT, one)


@pytest.mark.parametrize("event", EVENTS_OF_ONE)
def test_an_event_has_the_effects_in_the_table(one: Instance, event: str) -> None:
    settings = {one.triton: EVENTS[event].triton, one.sidecar: EVENTS[event].sidecar}
    one.reset({unit: text for unit, text in settings.items() if text})
    happen(event, one)
    check(event, one)
