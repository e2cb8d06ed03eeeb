"""The plan of a local mesh: its files, commands, copies and order."""

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest
import yaml

from sidecar.local import launch
from sidecar.local.planning import agent_config, configs
from sidecar.local.planning.layout import build, shm_prefix
from sidecar.local.planning.plan import MODELS, MeshOptions, ModelSource, Ports, Sources
from sidecar.local.processes.identity import MARK
from sidecar.runtime.errors import ConfigError
from sidecar.settings import load_sidecar, load_xds
from tests.support.local_plan import BOOTSTRAP, CANARY, DEMO, FOLDER, PROGRAMS, make

pytestmark = pytest.mark.files


def test_every_port_has_one_purpose() -> None:
    plan = make()
    assert len(plan.ports.all) == len(set(plan.ports.all)) == Ports.needed(3)
    assert Ports.assign(plan.ports.all) == plan.ports


def test_every_instance_has_its_own_copy_of_every_model() -> None:
    own = {"mine": ModelSource(Path("/models/mine"), {**CANARY, "timeout": "3s"})}
    ports = Ports.assign(range(20000, 20000 + Ports.needed(2)))
    sources = Sources(BOOTSTRAP, {**DEMO, **own})
    plan = build("cafe", MeshOptions(FOLDER), ports, PROGRAMS, sources, {}, {})
    for name in ("triton-0", "triton-1"):
        [triton] = [part for part in plan.parts if part.name == name]
        loaded = [flag for flag in triton.argv if flag.startswith("--load-model=")]
        assert loaded == [f"--load-model={model}" for model in (*MODELS, "mine")]
        views = {place.name: folder for place, folder in plan.copies.items() if name in str(place)}
        assert views == {"mine": Path("/models/mine")} | {
            model: Path("/assets") / model for model in MODELS
        }
        settings = tomllib.loads(plan.files[FOLDER / name / "sidecar.toml"])
        assert settings["triton"]["models"] == [*MODELS, "mine"]
        assert settings["canary"]["mine"]["timeout"] == "3s"
    assert len(plan.copies) == 2 * (len(MODELS) + 1)


@pytest.mark.parametrize("caches", [None, Path("/opt/caches")])
def test_each_triton_has_a_response_cache_if_its_installation_has(caches: Path | None) -> None:
    programs = dataclasses.replace(
        PROGRAMS, triton=dataclasses.replace(PROGRAMS.triton, caches=caches)
    )
    ports = Ports.assign(range(20000, 20000 + Ports.needed(2)))
    sources = Sources(BOOTSTRAP, DEMO)
    plan = build("cafe", MeshOptions(FOLDER), ports, programs, sources, {}, {})
    links = {place: target for place, target in plan.links.items() if place.name == "caches"}
    flags = [flag for part in plan.parts for flag in part.argv if flag.startswith("--cache-")]
    if caches is None:
        assert not links
        assert not flags
    else:
        assert links == {FOLDER / f"triton-{each}" / "caches": caches for each in range(2)}
        assert flags.count("--cache-directory=caches") == 2


def test_parts_start_after_what_they_need() -> None:
    parts = {part.name: part for part in make().parts}
    assert list(parts) == [
        *("consul", "triton-0", "triton-1", "triton-2"),
        *("sidecar-0", "sidecar-1", "sidecar-2", "xds", "envoy"),
    ]
    seen: set[str] = set()
    for part in parts.values():
        assert set(part.after) <= seen
        seen.add(part.name)
    # Each can run without the other.
    assert "triton-0" not in parts["sidecar-0"].after
    assert parts["triton-0"].after == ()


def test_each_triton_can_name_its_instance() -> None:
    named = {part.name: part.env.get("TINYCHAT_INSTANCE") for part in make().parts}
    assert [named[name] for name in ("triton-0", "triton-1")] == ["triton-0", "triton-1"]
    assert named["sidecar-0"] is None


def test_the_settings_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / 'with space, "quotes" and \\'
    (folder / "triton-1").mkdir(parents=True)
    plan = make(folder=folder, acl=True)
    for path in (folder / "triton-1" / "sidecar.toml", folder / "xds.toml"):
        path.write_text(plan.files[path])
    sidecar = load_sidecar(folder / "triton-1" / "sidecar.toml")
    assert sidecar.instance == "triton-1"
    assert sidecar.triton.port == plan.ports.instances[1].triton_grpc
    assert sidecar.listen.port == plan.ports.instances[1].sidecar_grpc
    assert sidecar.consul.token_file == folder / "tokens" / "sidecar"
    assert sidecar.canary["embedder"].inputs
    assert sidecar.canary["embedder"].inputs[0].data == ('a "b" \\ \n ü',)
    xds = load_xds(folder / "xds.toml")
    assert xds.xds.listen == f"127.0.0.1:{plan.ports.xds}"
    assert xds.envoy.listen == f"127.0.0.1:{plan.ports.envoy}"
    assert xds.consul.token_file == folder / "tokens" / "control_plane"


def test_without_acl_no_part_gets_a_token() -> None:
    plan = make()
    for path, text in plan.files.items():
        if path.suffix == ".toml":
            assert "token_file" not in tomllib.loads(text)["consul"]
    assert plan.mesh.consul.token_file is None


def test_consul_listens_on_its_ports_only() -> None:
    plan = make()
    config = json.loads(plan.files[FOLDER / "consul.json"])
    assert config["client_addr"] == config["bind_addr"] == "127.0.0.1"
    assert config["ports"]["grpc"] == config["ports"]["dns"] == config["ports"]["serf_wan"] == -1
    assert "grpc_tls" not in config["ports"]  # Consul 1.8 refuses to start with it
    newer = configs.consul("cafe", FOLDER, plan.ports, (1, 22), {})
    assert json.loads(newer)["ports"]["grpc_tls"] == -1
    assert config["disable_update_check"]


@pytest.mark.parametrize(
    ("version", "more"), [((1, 8), set()), ((1, 13), set()), ((1, 14), {"grpc_tls"})]
)
def test_an_agent_listens_on_the_given_ports_only(
    version: agent_config.Version, more: set[str]
) -> None:
    """Each version opens different ports by default, and several agents share a machine."""
    ports = agent_config.settings(version, http=1, server=2)["ports"]
    others = {"https", "grpc", "dns", "serf_lan", "serf_wan"} | more
    assert ports == {"http": 1, "server": 2, **dict.fromkeys(others, -1)}


def test_envoy_gets_its_addresses() -> None:
    plan = make()
    config = yaml.safe_load(plan.files[FOLDER / "envoy.yaml"])
    assert config["node"] == {"id": "local-cafe", "cluster": "local"}
    admin = config["admin"]["address"]["socket_address"]
    assert admin["port_value"] == plan.ports.envoy_admin
    [cluster] = config["static_resources"]["clusters"]
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["socket_address"]["port_value"] == plan.ports.xds
    assert BOOTSTRAP["node"]["id"] == "here"  # the argument is not modified


@pytest.mark.parametrize("key", ["admin", "dynamic_resources", "static_resources"])
def test_a_bootstrap_without_addresses_is_a_mistake(key: str) -> None:
    broken = {name: value for name, value in BOOTSTRAP.items() if name != key}
    with pytest.raises(ConfigError, match=r"envoy/bootstrap\.yaml"):
        configs.envoy(broken, "cafe", make().ports)


def test_the_bootstrap_and_canaries_of_this_project_fit() -> None:
    sources = launch.read_sources(MeshOptions(FOLDER))
    assert configs.envoy(sources.envoy_bootstrap, "cafe", make().ports)
    assert tuple(sources.models) == MODELS


def test_shared_memory_prefixes_of_tritons_differ() -> None:
    prefixes = [shm_prefix(mesh, number) for mesh in ("a", "ab") for number in range(20)]
    for one in prefixes:
        assert [other for other in prefixes if other.startswith(one)] == [one]


def test_the_users_environment_does_not_reach_the_mesh() -> None:
    plan = make(
        CONSUL_HTTP_ADDR="http://production:8500",
        CONSUL_HTTP_TOKEN="secret",
        TRITON_SIDECAR_SERVICE__ID="other",
        TRITON_SIDECAR_TRITON__GRPC="elsewhere:8001",
        TRITON_SIDECAR_TRITON__REPOSITORY_INTERVAL="1s",
        TRITON_SIDECAR_LOG__LEVEL="debug",
        no_proxy="example.org",
        CUDA_VISIBLE_DEVICES="1",
    )
    for part in plan.parts:
        assert not [key for key in part.env if key.startswith("CONSUL_")]
        assert "TRITON_SIDECAR_SERVICE__ID" not in part.env
        assert "TRITON_SIDECAR_TRITON__GRPC" not in part.env
        assert part.env["TRITON_SIDECAR_TRITON__REPOSITORY_INTERVAL"] == "1s"
        assert part.env["TRITON_SIDECAR_LOG__LEVEL"] == "debug"
        assert part.env["CUDA_VISIBLE_DEVICES"] == "1"
        assert part.env["no_proxy"] == "example.org,127.0.0.1,localhost"
        assert part.env[MARK] == "cafe"
    env = {part.name: part.env for part in plan.parts}
    assert env["triton-0"]["PATH"].startswith("/own/bin:")  # where the stub finds numpy
    assert env["triton-0"]["LD_LIBRARY_PATH"] == "/opt/lib"
    assert env["sidecar-0"]["PYTHONPATH"] == "/src"


def test_an_installed_package_needs_no_path() -> None:
    installed = dataclasses.replace(PROGRAMS, checkout=None)
    sources = Sources(BOOTSTRAP, DEMO)
    ports = Ports.assign(range(20000, 20000 + Ports.needed(1)))
    plan = build(
        "cafe", MeshOptions(FOLDER, 1), ports, installed, sources, {"PYTHONPATH": "/x"}, {}
    )
    assert not [part for part in plan.parts if "PYTHONPATH" in part.env]
