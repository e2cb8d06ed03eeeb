"""Listening addresses: one that cannot be bound is reported in one line, before gRPC tries."""

import socket

import grpc.aio
import pytest

from sidecar.runtime import listening
from sidecar.runtime.errors import ConfigError


async def test_a_free_port_is_listened_on() -> None:
    server = grpc.aio.server()
    assert listening.add_port(server, "listen.grpc", "127.0.0.1:0") > 0
    assert listening.add_port(server, "listen.grpc", "localhost:0") > 0


async def test_a_taken_port_is_reported_once(capfd: pytest.CaptureFixture[str]) -> None:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError) as caught:
            listening.add_port(server, "listen.grpc", address)
    wanted = f"expected an address that can be bound, found {address}: Address already in use"
    assert str(caught.value) == f"listen.grpc: {wanted}"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("192.0.2.1:7", "Cannot assign requested address"),
        ("[2001:db8::1]:7", ""),  # without IPv6 the message differs
        ("nobody.invalid:7", ""),
        (f"{'a' * 70}.x:7", "not the name of a host"),
    ],
)
def test_an_address_of_another_machine_is_rejected(address: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        listening.refuse_taken("xds.listen", address)
    assert str(caught.value).startswith("xds.listen: ")
    assert f" {address}: " in str(caught.value)
    assert why in str(caught.value)
