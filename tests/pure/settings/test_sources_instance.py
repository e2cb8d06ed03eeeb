"""The instance that settings describe: capacity, zone, limits, advertised addresses."""

from pathlib import Path

import pytest

from sidecar.app.instance import describe
from sidecar.registry.registration import InstanceMeta, registration
from sidecar.runtime.errors import ConfigError
from sidecar.settings import load_sidecar, load_xds
from sidecar.xds.config.edge import Edge
from tests.support.settings_files import MINIMAL, write
from tests.support.settings_files import without_consul_variables as without_consul_variables

pytestmark = pytest.mark.files


def test_capacity_and_zone_reach_the_instance(tmp_path: Path) -> None:
    service = '[service]\nid = "a"\ncapacity = 64\nzone = "east-1"\n'
    found = describe(load_sidecar(write(tmp_path, MINIMAL + service)))
    assert (found.capacity, found.zone) == (64, "east-1")
    found = describe(load_sidecar(write(tmp_path, MINIMAL)))
    assert (found.capacity, found.zone) == (None, "")


@pytest.mark.parametrize("text", ["capacity = 0", "capacity = true", "zone = ''", "zone = 'a b'"])
def test_invalid_capacities_and_zones(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"service.{text.partition(' ')[0]}: expected"):
        load_sidecar(write(tmp_path, f"{MINIMAL}[service]\n{text}\n"))


def test_the_listener_settings_reach_envoy(tmp_path: Path) -> None:
    assert load_xds(write(tmp_path, "[xds]\n")).envoy.edge == Edge()
    text = (
        '[envoy]\nlisten = "[::1]:9"\nmax_concurrent_streams = 7\nstream_idle_timeout = "5s"\n'
        'keepalive_interval = "11s"\nkeepalive_timeout = "3s"\n'
        'per_connection_buffer_limit_bytes = 32768\nquarantine = "5m"\n'
    )
    found = load_xds(write(tmp_path, text)).envoy.edge
    assert found == Edge("::1", 9, 7, 5.0, 11.0, 3.0, 32_768, quarantine=300.0)


@pytest.mark.parametrize(
    "text",
    [
        "max_concurrent_streams = 0",
        "max_concurrent_streams = true",
        "max_concurrent_streams = 2147483648",
        'stream_idle_timeout = "0s"',
        'stream_idle_timeout = "0.5ms"',
        'keepalive_interval = "0.1ms"',
        "per_connection_buffer_limit_bytes = 16383",
        "per_connection_buffer_limit_bytes = 4294967296",
    ],
)
def test_settings_that_envoy_would_reject(tmp_path: Path, text: str) -> None:
    key = text.partition(" ")[0]
    with pytest.raises(ConfigError, match=rf"envoy\.{key}: expected"):
        load_xds(write(tmp_path, f"[envoy]\n{text}\n"))


BRIDGE = """
[service]
address = "10.0.0.7"
port = 28001
[listen]
grpc = "0.0.0.0:9001"
advertise = "10.0.0.7:29001"
"""


@pytest.mark.parametrize(
    ("tables", "registered"),
    [
        ("", ("127.0.0.1", 8001, "127.0.0.1:9001", "9001")),
        ("[service]\nport = 28001", ("127.0.0.1", 28001, "127.0.0.1:9001", "9001")),
        (BRIDGE,
         ("10.0.0.7", 28001, "10.0.0.7:29001", "29001")),
        ("[listen]\ngrpc = '0.0.0.0:9001'\nadvertise = 'node-7'",
         ("127.0.0.1", 8001, "node-7:9001", "9001")),
        ("[listen]\ngrpc = '[::]:9001'\nadvertise = '[fd00::7]:29001'",
         ("127.0.0.1", 8001, "[fd00::7]:29001", "29001")),
        ("[listen]\ngrpc = '[::]:9001'\nadvertise = 'fd00::7'",
         ("127.0.0.1", 8001, "[fd00::7]:9001", "9001")),
    ],
)  # fmt: skip
def test_the_advertised_address_is_registered(
    tmp_path: Path, tables: str, registered: tuple[str, int, str, str]
) -> None:
    body = registration(
        describe(load_sidecar(write(tmp_path, f"{MINIMAL}{tables}"))), InstanceMeta()
    )
    checked = body["Checks"][1]["GRPC"].rpartition("/")[0]
    dialled = body["Address"], body["Port"], checked, body["Meta"]["sidecar_grpc_port"]
    assert dialled == registered


def test_the_address_that_the_sidecar_dials_itself_is_not_advertised(tmp_path: Path) -> None:
    settings = load_sidecar(write(tmp_path, f"{MINIMAL}[service]\nport = 28001\n"))
    assert settings.triton.grpc == "127.0.0.1:8001"
    assert settings.instance.endswith("-28001")  # several on one machine listen on the same port


@pytest.mark.parametrize(
    "value", ["", "0.0.0.0", "0.0.0.0:1", "[::]:1", "::", "a b", "host:", "host:0", "http://h:1"]
)
def test_an_unreachable_address_is_not_advertised(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"listen\.advertise: expected the host or host:port"):
        load_sidecar(write(tmp_path, f"{MINIMAL}[listen]\nadvertise = '{value}'"))
    with pytest.raises(ConfigError, match=r"xds\.advertise: expected the host or host:port"):
        load_xds(write(tmp_path, f"[xds]\nadvertise = '{value}'"))


def test_an_id_may_be_as_long_as_consul_accepts(tmp_path: Path) -> None:
    id = "triton-8777dc0f-0e58-c11e-5a20-a24f0b8a70fe-group-instance-triton-grpc-of-a-long-job"
    sidecar = load_sidecar(write(tmp_path, f"{MINIMAL}[service]\nid = '{id}'\n"))
    plane = load_xds(write(tmp_path, f"[xds]\nid = '{id}'\n"))
    assert (sidecar.instance, plane.xds.instance) == (id, id)
