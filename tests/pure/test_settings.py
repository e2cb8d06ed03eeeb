from pathlib import Path

import pytest

from sidecar.errors import ConfigError
from sidecar.settings import load_sidecar, load_xds
from sidecar.settings.values import parse_duration, split_address

MINIMAL = """
[triton]
models = ["echo"]
[canary.echo]
inputs = [{ name = "text", datatype = "BYTES", shape = [1], data = ["hello"] }]
expect = [{ output = "text", equals = ["hello"] }]
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (
        "CONSUL_HTTP_ADDR",
        "CONSUL_HTTP_TOKEN",
        "CONSUL_HTTP_TOKEN_FILE",
        "CONSUL_HTTP_SSL",
        "CONSUL_HTTP_SSL_VERIFY",
        "CONSUL_CACERT",
        "CONSUL_CLIENT_CERT",
        "CONSUL_CLIENT_KEY",
    ):
        monkeypatch.delenv(variable, raising=False)


def write(folder: Path, text: str) -> Path:
    path = folder / "sidecar.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("500ms", 0.5), ("1s", 1.0), ("1.5s", 1.5), ("2m", 120.0), ("1h", 3600.0), (3, 3.0), ("4", 4)],
)
def test_durations(given: object, seconds: float) -> None:
    assert parse_duration(given) == seconds


@pytest.mark.parametrize("given", ["", "s", "1 week", "-1s", None, True, "1e3s"])
def test_what_is_no_duration(given: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(given)


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("host.example:1", ("host.example", 1)),
     ("[::1]:8001", ("::1", 8001))],
)  # fmt: skip
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize("address", ["", "host", "host:0", "host:65536", "::1:80", "http://h:1"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        split_address(address)


def test_defaults(tmp_path: Path) -> None:
    settings = load_sidecar(write(tmp_path, MINIMAL))
    assert settings.service.name == "triton"
    assert settings.consul.url == "http://127.0.0.1:8500"
    assert settings.health.interval == 1.0


def test_flag_beats_environment_beats_file_beats_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, MINIMAL + '[health]\nrise = 3\nfall = 3\ninterval = "3s"\n')
    monkeypatch.setenv("TRITON_SIDECAR_HEALTH__RISE", "4")
    monkeypatch.setenv("TRITON_SIDECAR_HEALTH__FALL", "4")
    health = load_sidecar(path, {"health.rise": "5"}).health
    assert (health.rise, health.fall, health.interval, health.grace) == (5, 4, 3.0, 60.0)


def test_lists_in_the_environment_are_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_SIDECAR_SERVICE__TAGS", '["a", "b"]')
    assert load_sidecar(write(tmp_path, MINIMAL)).service.tags == ("a", "b")


def test_every_mistake_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(
        tmp_path,
        '[service]\nnmae = "x"\n[triton]\ngrpc = "nowhere"\nmodels = ["echo"]\n'
        '[health]\nrise = 0\ninterval = "soon"\n[election]\nsession_ttl = "1s"\n'
        "[canary.echo]\n"
        'inputs = [{ name = "n", datatype = "INT32", shape = [2], data = [1] }]\n'
        'expect = [{ output = "n" }]\n',
    )
    monkeypatch.setenv("TRITON_SIDECAR_DRAIN__TIMEOUT", "never")
    with pytest.raises(ConfigError) as caught:
        load_sidecar(path, {"log.level": "loud"})
    message = str(caught.value)
    assert sorted(line.partition(": expected")[0].partition(": Input")[0]
                  for line in message.splitlines()) == sorted([
        f"{path}: service.nmae: unknown key; expected one of address, id, meta, name, tags, weight",
        f"{path}: triton.grpc",
        f"{path}: health.rise",
        f"{path}: health.interval",
        f"{path}: election.session_ttl",
        f"{path}: canary.echo.inputs.0.data",
        f"{path}: canary.echo.expect.0",
        "environment: drain.timeout",
        "flag: log.level",
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[triton]\nmodels = ['echo']\n", "canary.echo: expected a canary for every model"),
        (MINIMAL + MINIMAL.partition("\n[canary.echo]")[2].join(["[canary.other]", ""]),
         "canary.other: expected a model that triton.models names"),
        (MINIMAL + "[consul]\ntoken = 'hush'\ntoken_file = '/f'\n", "expected one of them"),
        (MINIMAL + "[consul]\ncert_file = '/f'\n", "expected both or none"),
        (MINIMAL + "[consul]\naddress = 'ftp://x'\n", "expected host:port or http(s)://host:port"),
        ("[triton\n", "expected TOML"),
    ],
)  # fmt: skip
def test_complaints(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_sidecar(path)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "hush" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: expected a configuration file"):
        load_sidecar(tmp_path / "gone.toml")


def test_a_variable_that_names_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_SIDECAR_HELTH__RISE", "4")
    with pytest.raises(ConfigError, match="TRITON_SIDECAR_HELTH__RISE"):
        load_xds(None)


def test_secrets_are_not_printed(tmp_path: Path) -> None:
    settings = load_sidecar(write(tmp_path, MINIMAL + "[consul]\ntoken = 'hush'\n"))
    assert "hush" not in repr(settings)
    assert "hush" not in settings.model_dump_json()
    assert settings.consul.read_token() == "hush"


def test_a_token_file_is_read_anew_each_time(tmp_path: Path) -> None:
    token = tmp_path / "token"
    path = write(tmp_path, MINIMAL + f"[consul]\ntoken_file = '{token}'\n")
    consul = load_sidecar(path).consul
    with pytest.raises(ConfigError, match="token_file"):
        consul.read_token()
    for content in ("one", "two"):
        token.write_text(content + "\n")
        assert consul.read_token() == content


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"CONSUL_HTTP_ADDR": "10.0.0.1:1"}, "http://10.0.0.1:1"),
        ({"CONSUL_HTTP_ADDR": "https://10.0.0.1:1"}, "https://10.0.0.1:1"),
        ({"CONSUL_HTTP_ADDR": "10.0.0.1:1", "CONSUL_HTTP_SSL": "true"}, "https://10.0.0.1:1"),
        ({"CONSUL_HTTP_ADDR": "http://10.0.0.1:1", "CONSUL_HTTP_SSL": "1"}, "http://10.0.0.1:1"),
        ({}, "http://127.0.0.1:8500"),
    ],
)
def test_consuls_own_variables(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load_xds(None).consul.url == url


def test_what_is_explicit_beats_consuls_own_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "CONSUL_HTTP_ADDR": "10.0.0.1:1",
        "CONSUL_HTTP_TOKEN": "environment",
        "CONSUL_HTTP_SSL_VERIFY": "false",
        "CONSUL_CACERT": "/ca.pem",
    }.items():
        monkeypatch.setenv(name, value)
    text = "[consul]\naddress = '127.0.0.1:2'\ntoken = 'explicit'\n"
    consul = load_sidecar(write(tmp_path, MINIMAL + text)).consul
    assert (consul.url, consul.read_token()) == ("http://127.0.0.1:2", "explicit")
    assert (consul.verify, consul.ca_file) == (False, Path("/ca.pem"))
    assert load_xds(None).consul.read_token() == "environment"
