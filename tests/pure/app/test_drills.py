"""The wiring of drills: nothing at all unless the settings permit a fault."""

from pathlib import Path

import pytest

from sidecar.app import drills
from sidecar.injection.loop import Injector
from sidecar.notify.documents import Sender
from sidecar.notify.notifier import Notifier
from sidecar.notify.rules import HookRules
from sidecar.runtime.latest import Latest
from sidecar.settings import SidecarSettings, load_sidecar
from sidecar.verdict.verdict import UNPROVEN
from tests.support.consul_model import FakeConsul
from tests.support.settings_files import MINIMAL
from tests.support.settings_files import without_consul_variables as without_consul_variables
from tests.support.virtual_clock import VirtualClock

pytestmark = pytest.mark.files


def built(folder: Path, text: str) -> tuple[SidecarSettings, Injector]:
    path, clock = folder / "sidecar.toml", VirtualClock()
    path.write_text(MINIMAL + text)
    settings = load_sidecar(path)
    sender = Sender(settings.service.name, settings.instance)
    notifier = Notifier(HookRules(), {}, sender, clock, lambda _: None)
    return settings, drills.build(
        settings, FakeConsul(), Latest(UNPROVEN), lambda: "", notifier, clock, lambda _: None
    )


async def test_without_permission_there_is_no_loop_and_no_step(tmp_path: Path) -> None:
    settings, injector = built(tmp_path, "")
    assert injector.loops() == {}
    assert drills.steps(settings, injector) == []


async def test_a_permitted_fault_is_watched_for_and_undone_first(tmp_path: Path) -> None:
    settings, injector = built(tmp_path, '[drill]\nallow = ["freeze"]\n')
    assert set(injector.loops()) == {"watch drills", "inject faults"}
    [step] = drills.steps(settings, injector)
    assert step.name == "end_drill"
    assert not step.skippable
    await step.run()
