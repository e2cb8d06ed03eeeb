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
from tests.support.soak import times

# Assertions in these modules show the compared values, whichever module imports them first.
pytest.register_assert_rewrite("tests.support.mesh.mesh", "tests.support.mesh.mesh_outside")

_TESTS = Path(__file__).parent
# The files that start first, longest first: each takes a minute or more on two cores.
_LONGEST = (
    "chaos/test_mesh_faults.py",
    "chaos/test_cluster_faults.py",
    "integration/drill/test_live_faults.py",
    "integration/mesh/test_mesh_switchover.py",
    "integration/mesh/test_mesh_failover.py",
    "integration/mesh/test_mesh_model_set.py",
    "integration/mesh/test_mesh_health.py",
    "integration/mesh/test_mesh_consul.py",
    "integration/mesh/test_mesh_local.py",
    "integration/mesh/test_mesh_recovery.py",
    "integration/xds/catalog/test_consul_outages.py",
    "integration/registry/drain_cut/test_drain_cut.py",
    "integration/drill/test_live_drills.py",
    "integration/drill/test_live_command.py",
    "integration/mesh/test_mesh_strict.py",
    "integration/xds/config/filters/test_sequence_filter.py",
    "integration/xds/test_envoy.py",
    "contract/models/store/test_push_killed.py",
)
_LONG_WAITS = (
    "contract/health/probes/test_prober.py",
    "contract/test_rolling_upgrade.py",
    "contract/operator/test_follow_order.py",
    "contract/cli/operator/test_switchover.py",
)
_CPU_BOUND = "pure/election/test_decision_simulated.py"
# The folders whose tests start a Consul.
_WITH_CONSUL = ("tests/contract/", "tests/integration/", "tests/chaos/")


@pytest.fixture(scope="session")
def consul_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """A shared Consul agent; each test uses its own service names."""
    with ConsulAgent.running(tmp_path_factory.mktemp("consul")) as agent:
        yield agent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that no worker still runs one when all others are done."""
    items.sort(key=_position)


def pytest_runtest_teardown() -> None:
    """Reset logging, because commands that run in this process set it up."""
    logs.finish()  # a thread writes the log, to the current standard error
    structlog.reset_defaults()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print which Consul was tested, since CONSUL_BIN may name any; `-q` shows no header."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    if not any(str(getattr(r, "nodeid", "")).startswith(_WITH_CONSUL) for r in reports):
        return
    try:
        program = find("consul")
        tested = f"{consul_release(program)} ({program})"
    except PartMissing as error:
        tested = str(error)
    terminalreporter.write_line(f"Consul: {tested}")


def _position(item: pytest.Item) -> int:
    # A CPU-bound file runs next to files that mostly wait, not next to meshes: Consul considers a
    # sidecar dead that gets no CPU time for a second.
    name = item.path.relative_to(_TESTS).as_posix()
    if name in _LONGEST:
        return _LONGEST.index(name)
    if name.startswith(("integration/", "chaos/")):
        return len(_LONGEST)
    return len(_LONGEST) + (1 if name in _LONG_WAITS else 2 if name == _CPU_BOUND else 3)


# No example has a deadline, because machines are shared. The examples are the same each time, so
# that only a change can make a test fail; HYPOTHESIS_ANEW=1 draws others.
settings.register_profile(
    "shared",
    deadline=None,
    derandomize=not os.environ.get("HYPOTHESIS_ANEW"),
    max_examples=times(50, soaking=300),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared")
