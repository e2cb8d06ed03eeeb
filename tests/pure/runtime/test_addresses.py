"""Addresses in settings: an unusable one is reported with its key."""

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sidecar.cli.main import app
from sidecar.runtime.addresses import is_host, unicast_address

pytestmark = pytest.mark.files

OWN = '[triton]\nmodels = ["chat"]\n'
ONE_HOST = "expected the IP address of one host, at which Envoys reach it"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("127.0.0.1", "127.0.0.1"),
        ("169.254.7.7", "169.254.7.7"),  # reached like any other, as in some clouds
        ("2001:DB8:0::7", "2001:db8::7"),
        ("::1", "::1"),
        ("::ffff:10.0.0.7", "::ffff:a00:7"),
        ("", None),
        ("0.0.0.0", None),
        ("::", None),
        ("::ffff:0.0.0.0", None),
        ("224.0.0.1", None),
        ("255.255.255.255", None),
        ("ff02::1", None),
        ("fe80::1%eth0", None),
        ("fe80::1", "fe80::1"),
        ("2001:db8::7%eth0", None),
        ("gpu-1.example", None),
        ("10.0.0", None),
        ("10.0.0.7:8001", None),
        ("[::1]", None),
        (" 10.0.0.7", None),
    ],
)
def test_unicast_addresses(text: str, address: str | None) -> None:
    assert unicast_address(text) == address


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("gpu-1.example", True),
        ("gpu_1", True),
        ("0.0.0.0", True),
        ("::", True),
        ("10.0.0.7", True),
        ("", False),
        ("10.0.0", False),
        ("10.0.0.256", False),
        ("224.0.0.1", False),
        ("ff02::1", False),
        ("fe80::1%eth0", False),
        ("gpu-1%eth0", False),
        ("a b", False),
        ("x" * 254, False),
    ],
)
def test_hosts(text: str, is_one: bool) -> None:
    assert is_host(text) is is_one


def mistakes_in(verb: str, folder: Path, text: str) -> list[str]:
    """The mistakes that `--check-config` finds."""
    config = folder / "settings.toml"
    config.write_text(text)
    result = CliRunner().invoke(app, [verb, "--config", str(config), "--check-config"])
    assert result.exit_code == (2 if result.stderr else 0)
    return [line.removeprefix(f"triton-sidecar: {config}: ") for line in result.stderr.splitlines()]


@pytest.mark.parametrize(
    "address", ["", "0.0.0.0", "::", "fe80::1%eth0", "fe80::1", "ff02::1", "gpu-1", "10.0.0.256"]
)
def test_where_envoys_reach_an_instance(tmp_path: Path, address: str) -> None:
    mistakes = mistakes_in("run", tmp_path, f'{OWN}[service]\naddress = "{address}"\n')
    assert mistakes == [f"service.address: {ONE_HOST}, found {address!r}"]


@pytest.mark.parametrize("host", ["224.0.0.1", "[ff02::1]", "[fe80::1%eth0]", "10.0.0", ""])
@pytest.mark.parametrize(
    ("verb", "table", "key"),
    [
        ("run", "triton", "grpc"),
        ("run", "triton", "metrics"),
        ("run", "listen", "grpc"),
        ("run", "listen", "metrics"),
        ("run", "consul", "address"),
        ("xds", "xds", "listen"),
        ("xds", "xds", "metrics"),
        ("xds", "envoy", "listen"),
        ("xds", "envoy", "admin"),
    ],
)
def test_malformed_hosts(tmp_path: Path, verb: str, table: str, key: str, host: str) -> None:
    value = f'["{host}:8001"]' if key == "admin" else f'"{host}:8001"'
    own = OWN if table == "triton" else f"[{table}]\n"
    more = "" if table == "triton" or verb == "xds" else OWN
    [mistake] = mistakes_in(verb, tmp_path, f"{own}{key} = {value}\n{more}")
    assert mistake.startswith(f"{table}.{key}")
    assert "expected " in mistake
    assert "host:port" in mistake


@pytest.mark.parametrize(
    "host", ["224.0.0.1", "ff02::1", "fe80::1%eth0", "255.255.255.255", "10.0.0"]
)
@pytest.mark.parametrize(("verb", "table"), [("run", "listen"), ("xds", "xds")])
def test_an_advertised_address_can_be_dialled(
    tmp_path: Path, verb: str, table: str, host: str
) -> None:
    own = OWN if verb == "run" else ""
    [mistake] = mistakes_in(verb, tmp_path, f'{own}[{table}]\nadvertise = "{host}"\n')
    wanted = "expected the host or host:port that others dial"
    assert mistake == f"{table}.advertise: {wanted}, found {host!r}"


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_malformed_port_of_consul(tmp_path: Path, port: str) -> None:
    [mistake] = mistakes_in("run", tmp_path, f'{OWN}[consul]\naddress = "127.0.0.1:{port}"\n')
    assert mistake.startswith("consul.address: expected host:port or http(s)://host:port, found")


def test_envoy_does_not_listen_on_a_name(tmp_path: Path) -> None:
    [mistake] = mistakes_in("xds", tmp_path, '[envoy]\nlisten = "localhost:8001"\n')
    assert mistake.startswith("envoy.listen: expected an IP address and a port: ")
    assert mistakes_in("xds", tmp_path, '[envoy]\nlisten = "[::]:8001"\n') == []


def test_a_wildcard_listener_needs_an_advertised_address(tmp_path: Path) -> None:
    text = '[xds]\nlisten = "0.0.0.0:18000"\n'
    [mistake] = mistakes_in("xds", tmp_path, text)
    assert mistake.startswith("xds.advertise: expected the address that sidecars dial")
    assert mistakes_in("xds", tmp_path, text + 'advertise = "10.0.0.7"\n') == []


UNKNOWN = """[triton]
models = ["chat"]
grpc = "gpu-1.invalid:8001"
metrics = "gpu-1.invalid:8002"
[consul]
address = "https://consul.invalid:8501"
[listen]
grpc = "here.invalid:9001"
advertise = "here.invalid"
[notify.ops]
url = "https://hush.invalid/hush"
"""


def resolver(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)


def test_unknown_host_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolver(monkeypatch, socket.EAI_NONAME)
    mistakes = mistakes_in("run", tmp_path, UNKNOWN)
    found = [each.partition(": ") for each in mistakes]
    assert [key for key, _, _ in found] == [
        "consul.address",
        "triton.grpc",
        "triton.metrics",
        "listen.grpc",
        "listen.advertise",
        "notify.ops.url",
    ]
    assert found[1][2] == (
        "expected a host that is known, found gpu-1.invalid:8001: Name or service not known"
    )
    assert not any("hush" in each for each in mistakes)
    listens = '[xds]\nlisten = "127.0.0.1:1"\n[envoy]\nadmin = ["127.0.0.1:1", "b.invalid:1"]\n'
    [mistake] = mistakes_in("xds", tmp_path, listens)
    assert mistake.startswith("envoy.admin[1]: expected a host that is known, found b.invalid:1")


def test_an_unavailable_resolver_is_not_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver(monkeypatch, socket.EAI_AGAIN)
    assert mistakes_in("run", tmp_path, UNKNOWN) == []
