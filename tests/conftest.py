"""Fixtures for all tests."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.consul_agent import ConsulAgent


@pytest.fixture(scope="session")
def consul_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """A Consul agent that many tests share, each with services of its own."""
    with ConsulAgent.running(tmp_path_factory.mktemp("consul")) as agent:
        yield agent


# How long an example takes is no matter of right or wrong: machines are shared.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")
