"""Listening addresses; one that cannot be bound is reported in one line.

Acts: grpc, socket.
"""

import socket
from typing import Any

import grpc.aio

from sidecar.runtime.errors import AddressUnusable


def add_port(server: grpc.aio.Server, key: str, address: str) -> int:
    """Have a server listen on `host:port`; returns the port. `key` names the address's setting.

    Raises:
        AddressUnusable: the address cannot be bound.
    """
    # gRPC prints why it failed on standard error; its exception does not say.
    refuse_taken(key, address)
    try:
        return int(server.add_insecure_port(address))
    except RuntimeError as error:
        raise unusable(key, address, "gRPC cannot listen on it") from error


def refuse_taken(key: str, address: str) -> None:
    """Check that an address is one of this machine, and is not taken.

    Raises:
        AddressUnusable: it is not, or it is taken.
    """
    host, _, port = address.rpartition(":")
    kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=kind, flags=flags)
    except OSError as error:
        raise unusable(key, address, _why(error)) from error
    except UnicodeError as error:
        raise unusable(key, address, "not the name of a host") from error
    failures = [_failure(family, place) for family, _, _, _, place in found]
    # A name may resolve to several addresses; one of them is enough.
    if (first := next(iter(failures), None)) and all(failures):
        raise unusable(key, address, _why(first)) from first


def unusable(key: str, address: str, why: str) -> AddressUnusable:
    """The error for an address that cannot be listened on."""
    wanted = "expected an address that can be bound"
    return AddressUnusable(f"{key}: {wanted}, found {address}: {why}")


def _failure(family: socket.AddressFamily, place: tuple[Any, ...]) -> OSError | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(place)
    except OSError as error:
        return error
    return None


def _why(error: OSError) -> str:
    return error.strerror or str(error)
