"""A real Triton that the tests of this folder share."""

from collections.abc import Iterator

import pytest

from tests.triton_server import TritonServer

MODELS = ("echo_types", "counter", "tinychat", "tinychat_unary", "embedder")


@pytest.fixture(scope="package")
def triton_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with TritonServer.running(tmp_path_factory.mktemp("triton"), *MODELS) as server:
        yield server
