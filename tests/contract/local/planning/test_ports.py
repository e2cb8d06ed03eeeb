import socket

import pytest

from sidecar.local.planning import ports
from sidecar.runtime.errors import Unavailable


def test_ports_are_distinct_and_below_the_ephemeral_range() -> None:
    low = int(ports._RANGE.read_text().split()[0])
    with ports.reserve(40) as drawn:
        assert len(set(drawn)) == 40
        assert all(port in ports.candidates(low) for port in drawn)


def test_two_meshes_planned_concurrently_share_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    # A machine with few ports: without the claims both meshes would draw the same ones.
    few = next(start for start in range(20000, 30000, 30) if not any_used(start, 30))
    monkeypatch.setattr(ports, "candidates", lambda low: range(few, few + 30))
    with ports.reserve(12) as one, ports.reserve(12) as two:
        assert not set(one) & set(two)
        with pytest.raises(Unavailable, match="12 free ports"), ports.reserve(12):
            pass
    with ports.reserve(24):  # released
        pass


def test_a_port_in_use_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = server.getsockname()[1]
        assert ports.in_use(taken)
        monkeypatch.setattr(ports, "candidates", lambda low: range(taken, taken + 1))
        with pytest.raises(Unavailable), ports.reserve(1):
            pass


def test_a_machine_with_few_ports_below_the_ephemeral_range_still_has_candidates() -> None:
    assert len(ports.candidates(1024)) > 1000


def any_used(start: int, count: int) -> bool:
    return any(ports.in_use(port) for port in range(start, start + count))
