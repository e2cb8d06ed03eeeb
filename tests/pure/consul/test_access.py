"""Access to an agent: whether it runs on this machine."""

import pytest

from sidecar.consul.access import ConsulAccess


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8500", True),
        ("http://localhost:8500", True),
        ("https://[::1]:8501", True),
        ("http://10.0.0.1:8500", False),
        ("https://consul.example:8501", False),
    ],
)
def test_whether_the_agent_runs_on_this_machine(url: str, local: bool) -> None:
    assert ConsulAccess(address=url).is_local is local
