"""Fixtures for all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from sidecar.local.programs.parts import consul_release, find
from sidecar.runtime.errors import PartMissing
from sidecar.telemetry import logs
from tests.support.consul_agent import ConsulAgent

# Their assertions show what they compared, whichever module imports them first.
pytest.register_assert_rewrite("tests.support.mesh.mesh", "tests.support.mesh.mesh_outside")

_TESTS = Path(__file__).parent
# The files that start first, the longest before the others; a minute or more each, on two cores.
_LONGEST = (
    "chaos/test_mesh_faults.py",
    "chaos/test_cluster_faults.py",
    "integration/mesh/test_mesh_switchover.py",
    "integration/mesh/test_mesh_failover.py",
    "integration/mesh/test_mesh_model_set.py",
    "integration/mesh/test_mesh_health.py",
    "integration/mesh/test_mesh_consul.py",
    "integration/mesh/test_mesh_local.py",
    "integration/mesh/test_mesh_recovery.py",
    "integration/xds/catalog/test_calm_control_plane.py",
    "integration/registry/drain_cut/test_drain_cut.py",
    "integration/mesh/test_mesh_strict.py",
    "integration/xds/config/filters/test_sequence_filter.py",
    "integration/xds/test_envoy.py",
)
_LONG_WAITS = (
    "contract/health/probes/test_prober.py",
    "contract/test_rolling_upgrade.py",
    "contract/operator/test_follow_order.py",
    "contract/cli/operator/test_switchover.py",
)
_ARITHMETIC = "pure/election/test_decision_simulated.py"
# The folders of tests that start a Consul.
_WITH_CONSUL = ("tests/contract/", "tests/integration/", "tests/chaos/")


@pytest.fixture(scope="session")
def consul_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """A Consul agent that many tests share, each with its own services."""
    with ConsulAgent.running(tmp_path_factory.mktemp("consul")) as agent:
        yield agent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no worker is left alone with it at the end."""
    items.sort(key=_turn)


def pytest_runtest_teardown() -> None:
    """Leave no test the log of another: commands that are tried in this process set one up."""
    logs.finish()  # a thread writes it, to whatever standard error is by then
    structlog.reset_defaults()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which Consul has been tried: CONSUL_BIN may name any. `-q` shows no header."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    if not any(str(getattr(r, "nodeid", "")).startswith(_WITH_CONSUL) for r in reports):
        return
    try:
        program = find("consul")
        tried = f"{consul_release(program)} ({program})"
    except PartMissing as error:
        tried = str(error)
    terminalreporter.write_line(f"Consul: {tried}")


def _turn(item: pytest.Item) -> int:
    # What takes a whole core runs next to what waits, not next to meshes: Consul takes a sidecar
    # that gets no CPU time for a second for dead.
    name = item.path.relative_to(_TESTS).as_posix()
    if name in _LONGEST:
        return _LONGEST.index(name)
    if name.startswith(("integration/", "chaos/")):
        return len(_LONGEST)
    return len(_LONGEST) + (1 if name in _LONG_WAITS else 2 if name == _ARITHMETIC else 3)


# How long an example takes is no matter of right or wrong: machines are shared. The examples are
# the same each time, so that a change is what makes a test fail; HYPOTHESIS_ANEW=1 draws others.
settings.register_profile(
    "shared",
    deadline=None,
    derandomize=not os.environ.get("HYPOTHESIS_ANEW"),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared")
