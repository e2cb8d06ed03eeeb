"""The designs of benchmarks/peers, and their files."""

import json
from pathlib import Path

import pytest
import yaml

from benchmarks.peers.design import (
    DESIGNS,
    FOLDER,
    OURS,
    Design,
    chosen,
    for_host,
    with_hosts,
    with_third_server,
)
from sidecar.traffic import document
from sidecar.traffic.policy import Mode

_PEERS = [one for one in DESIGNS if not one.ours]
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


def test_this_project_is_there_with_its_defaults_and_with_all_instances_active() -> None:
    ours = {one.name: one for one in DESIGNS if one.ours}
    assert ours.keys() == {OURS, "ours/active_active"}
    assert ours[OURS].setup == ()
    policy = FOLDER / "ours/active_active" / ours["ours/active_active"].setup[3]
    text = json.dumps(yaml.safe_load(policy.read_text()))
    assert document.parse(text).mode is Mode.ACTIVE_ACTIVE


def test_maintenance_is_of_the_instance_on_that_host() -> None:
    text = (FOLDER / "ours" / "active_active" / "switchover.sh").read_text()
    assert "-service=triton-1 " in for_host(text, 1, "")


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
    assert [one.name for one in chosen(["ours/active_active"])] == ["ours/active_active"]
    assert chosen([]) == DESIGNS


@pytest.mark.parametrize("name", ["keepalived/tuned", "connect/as_used"])
def test_a_third_host_runs_what_the_second_runs(name: str) -> None:
    [design] = chosen([name])
    made = with_hosts(design, 3)
    assert made.hosts == 3
    second, third = ([one for one in made.processes if one.where == f"host-{n}"] for n in (1, 2))
    assert [one.argv for one in second] == [one.argv for one in third] != []
    assert len({one.name for one in made.processes}) == len(made.processes)


def test_a_design_with_enough_hosts_stays_as_it_is() -> None:
    [design] = chosen(["nginx_weights/tuned"])
    assert with_hosts(design, 2) == design


_NAMES_SERVERS = [
    path
    for path in sorted(FOLDER.glob("nginx_*/*/*"))
    if "10.2.0.22" in path.read_text() or "10.2.0.23" in path.read_text()
]


@pytest.mark.parametrize("path", _NAMES_SERVERS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_the_third_server_is_wherever_the_second_is(path: Path) -> None:
    text = with_third_server(path.read_text())
    assert text.count("10.2.0.22") == text.count("10.2.0.23") > 0


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/*/triton.json")), ids=str)
def test_each_of_three_hosts_registers_itself(path: Path) -> None:
    for number, own in enumerate(("10.2.0.21", "10.2.0.22", "10.2.0.23")):
        text = with_third_server(for_host(path.read_text(), number, own))
        assert [each for each in (f"10.2.0.2{last}" for last in (1, 2, 3)) if each in text] == [own]


def test_a_third_server_is_set_like_the_second() -> None:
    pair = "server 10.2.0.21:8001;\nserver 10.2.0.22:8001 backup;\n"
    assert with_third_server(pair) == pair + "server 10.2.0.23:8001 backup;\n"
    assert with_third_server("for h in 10.2.0.21 10.2.0.22; do\n") == (
        "for h in 10.2.0.21 10.2.0.22 10.2.0.23; do\n"
    )
