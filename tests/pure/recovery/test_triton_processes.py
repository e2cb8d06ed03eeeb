"""Which process listens on Triton's port."""

import psutil
import pytest

from sidecar.recovery.triton_processes import Listener, _mapped, choose
from sidecar.runtime.errors import Rejected


@pytest.mark.parametrize(
    ("host", "listeners", "pid"),
    [
        ("127.0.0.1", [("127.0.0.1", 8001, 7), ("127.0.0.1", 8002, 8)], 7),
        ("127.0.0.1", [("0.0.0.0", 8001, 7)], 7),
        ("127.0.0.1", [("::", 8001, 7), ("10.0.0.1", 8001, 8)], 7),
        ("127.0.0.1", [("0.0.0.0", 8001, 8), ("127.0.0.1", 8001, 7)], 7),
        ("127.0.0.1", [("127.0.0.1", 8001, 7), ("127.0.0.1", 8001, 7)], 7),
        ("::1", [("::1", 8001, 7), ("127.0.0.1", 8001, 8)], 7),
        ("localhost", [("127.0.0.1", 8001, 7), ("::1", 8001, 7), ("10.0.0.1", 8001, 8)], 7),
        ("gpu-1.example", [("0.0.0.0", 8001, 7)], 7),
    ],
)
def test_which_process_listens(host: str, listeners: list[tuple[str, int, int]], pid: int) -> None:
    assert choose([Listener(*each) for each in listeners], host, 8001) == pid


@pytest.mark.parametrize(
    ("listeners", "why"),
    [
        ([], "nothing listens on 127.0.0.1:8001"),
        ([("127.0.0.1", 8002, 7), ("10.0.0.1", 8001, 7)], "nothing listens on 127.0.0.1:8001"),
        ([("127.0.0.1", 8001, None)], "this user may not see which process"),
        ([("127.0.0.1", 8001, 7), ("127.0.0.1", 8001, None)], "this user may not see which"),
        ([("0.0.0.0", 8001, 7), ("::", 8001, 8)], r"several processes listen on .*: \[7, 8\]"),
    ],
)
def test_no_process_is_guessed(listeners: list[tuple[str, int, int | None]], why: str) -> None:
    with pytest.raises(Rejected, match=why):
        choose([Listener(*each) for each in listeners], "127.0.0.1", 8001)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (psutil.NoSuchProcess(7), "x: the process is gone"),
        (psutil.ZombieProcess(7), "x: the process is gone"),
        (ProcessLookupError(), "x: the process is gone"),
        (psutil.AccessDenied(7), "x: this user may not signal or inspect the process"),
        (PermissionError(), "x: this user may not signal or inspect the process"),
        (OSError(24, "Too many open files"), "x: .*Too many open files"),
    ],
)
def test_errors_of_psutil_and_the_system_are_translated(error: Exception, why: str) -> None:
    with pytest.raises(Rejected, match=why), _mapped("x"):
        raise error
