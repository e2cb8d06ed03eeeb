"""What a control plane saves for its next start."""

from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from sidecar.consul.client import Consul
from sidecar.settings import XdsSettings
from sidecar.traffic.guard import Rollback
from sidecar.traffic.policy import Release
from sidecar.xds.app import ControlPlane
from sidecar.xds.catalog import cached_state
from sidecar.xds.catalog.cached_state import CachedState
from sidecar.xds.metrics import ControlPlaneMetrics
from tests.support.consul_model import FakeConsul
from tests.support.virtual_clock import VirtualClock

pytestmark = pytest.mark.files


def plane(path: Path) -> Any:
    settings = XdsSettings.model_validate({"xds": {"state": path}})
    consul, log = cast("Consul", FakeConsul()), structlog.get_logger()
    metrics = ControlPlaneMetrics()
    return ControlPlane(lambda: settings, settings, consul, VirtualClock(), metrics, log)


async def test_a_rollback_is_saved_when_it_stops(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    ended = plane(path)
    ended._watch.state.set(CachedState(("triton",)))
    ended._releases.rollbacks.set({"triton": Rollback(Release(tag="v2", percent=20), "bad")})
    [keep] = [step for step in ended._stop(()) if step.name == "save_catalog"]
    await keep.run()
    later = plane(path)
    assert later._releases.rollbacks.value == ended._releases.rollbacks.value
    assert cached_state.load(path.read_bytes(), ("triton",))[0] == later._cached_state()
