"""`host:port`, as settings and flags have it."""

import pytest

from sidecar.runtime.addresses import split_address


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("host.example:1", ("host.example", 1)),
     ("[::1]:8001", ("::1", 8001))],
)  # fmt: skip
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize("address", ["", "host", "host:0", "host:65536", "::1:80", "http://h:1"])
def test_invalid_addresses(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        split_address(address)
