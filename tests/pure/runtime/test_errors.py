"""Readable messages for errors of libraries and of the system."""

import socket

import aiohttp
import pytest

from sidecar.runtime.errors import words


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TimeoutError(), "no answer in time"),
        (TimeoutError("it took 60 s"), "it took 60 s"),
        (TimeoutError(110, "Connect call failed ('10.0.0.1', 1)"), "Connection timed out"),
        (aiohttp.ServerTimeoutError(), "no answer in time"),
        (aiohttp.ClientPayloadError(), "client payload error"),
        (aiohttp.ClientPayloadError("The body is cut: <LengthError: 400, message='x'>. Reset(1)"),
         "The body is cut"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(2, "No such file or directory", "/x"), "No such file or directory"),
        (ConnectionRefusedError(111, "Connect call failed ('::1', 1, 0, 0)"), "Connection refused"),
        (OSError(111, "Multiple exceptions: [Errno 111] a, [Errno 111] b"), "Connection refused"),
        (OSError(99, "Connect call failed ('::1', 1, 0, 0)"), "Cannot connect"),
        (OSError("[Errno 5] Input/output error"), "Input/output error"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (KeyError("mesh"), "no 'mesh'"),
        (TypeError("string indices must be integers"), "a value of another type"),
        (RecursionError(), "recursion error"),
    ],
)  # fmt: skip
def test_no_error_shows_python_details(error: Exception, message: str) -> None:
    assert words(error) == message
