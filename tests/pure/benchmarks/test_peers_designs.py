"""The designs of benchmarks/peers, and their files."""

import json

import pytest

from benchmarks.peers.design import DESIGNS, FOLDER, OURS, Design, chosen, for_host

_PEERS = [one for one in DESIGNS if one.name != OURS]
_EACH_PEER = pytest.mark.parametrize("design", _PEERS, ids=lambda design: design.name)


def test_each_peer_is_there_as_used_and_tuned() -> None:
    assert {one.name for one in _PEERS} == {
        f"{one.peer}/{variant}" for one in _PEERS for variant in ("as_used", "tuned")
    }


@_EACH_PEER
def test_a_tuned_design_says_what_was_tuned(design: Design) -> None:
    assert bool(design.tuning) is design.name.endswith("/tuned")


@_EACH_PEER
def test_a_design_has_the_files_that_its_commands_name(design: Design) -> None:
    commands = [design.switchover, *(process.argv for process in design.processes)]
    endings = (".sh", ".conf", ".cfg", ".yaml", "Caddyfile")
    named = {word for argv in commands for word in argv if word.endswith(endings)}
    assert named
    assert all((FOLDER / design.name / name).is_file() for name in named)


@_EACH_PEER
def test_a_design_that_follows_consul_registers_its_tritons(design: Design) -> None:
    assert (FOLDER / design.name / "triton.json").is_file() is design.consul


def test_a_host_registers_its_own_address() -> None:
    text = (FOLDER / "haproxy" / "as_used" / "triton.json").read_text()
    assert json.loads(for_host(text, 1, "10.2.0.22"))["service"]["address"] == "10.2.0.22"


def test_keepalived_of_the_second_host_is_the_backup() -> None:
    text = for_host((FOLDER / "keepalived" / "as_used" / "keepalived.conf").read_text(), 1, "")
    assert "state BACKUP" in text
    assert "priority 90" in text
    assert "router_id host-1" in text


def test_designs_are_chosen_by_name_or_variant() -> None:
    assert [one.name for one in chosen(["envoy"])] == ["envoy/as_used", "envoy/tuned"]
    assert [one.name for one in chosen(["envoy/tuned", OURS])] == ["envoy/tuned", OURS]
    assert chosen([]) == DESIGNS
