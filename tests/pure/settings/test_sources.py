"""Settings come from flags, the environment and files; every mistake is reported at once."""

from pathlib import Path

import pytest

from sidecar.runtime.errors import ConfigError
from sidecar.settings import SidecarSettings, in_use, load_sidecar, load_xds
from tests.support.settings_files import MINIMAL, write
from tests.support.settings_files import without_consul_variables as without_consul_variables

pytestmark = pytest.mark.files


def test_defaults(tmp_path: Path) -> None:
    settings = load_sidecar(write(tmp_path, MINIMAL))
    assert settings.service.name == "triton"
    assert settings.consul.access.url == "http://127.0.0.1:8500"
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


def test_every_mistake_is_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    service_keys = (
        "expected one of address, capacity, forget_after, id, meta, name, port, tags, weight, zone"
    )
    assert sorted(line.partition(": expected")[0].partition(": Input")[0]
                  for line in message.splitlines()) == sorted([
        f"{path}: service.nmae: unknown key; {service_keys}",
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
        (MINIMAL + MINIMAL.partition("\n[canary.echo]")[2].join(["[canary.other]", ""]),
         "canary.other: expected a model that triton.models names"),
        (MINIMAL + "[consul]\ntoken = 'hush'\ntoken_file = '/f'\n", "expected one of them"),
        (MINIMAL + "[consul]\ncert_file = '/f'\n", "expected both or none"),
        (MINIMAL + "[consul]\naddress = 'ftp://x'\n", "consul.address: expected host:port"),
        ("[triton\n", "expected TOML"),
    ],
)  # fmt: skip
def test_mistakes_are_reported_with_their_source(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_sidecar(path)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "hush" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: expected a configuration file"):
        load_sidecar(tmp_path / "gone.toml")


def test_a_variable_that_matches_no_table_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_SIDECAR_HELTH__RISE", "4")
    with pytest.raises(ConfigError, match="TRITON_SIDECAR_HELTH__RISE"):
        load_xds(None)


def test_secrets_are_not_printed(tmp_path: Path) -> None:
    settings = load_sidecar(write(tmp_path, MINIMAL + "[consul]\ntoken = 'hush'\n"))
    assert "hush" not in repr(settings)
    assert "hush" not in settings.model_dump_json()
    assert settings.consul.access.read_token() == "hush"


@pytest.mark.parametrize(
    ("mistake", "reported"),
    [
        ("consul.ca_file: expected x", "{path}: consul.ca_file: expected x"),
        ("consul.token_file: expected x", "environment (CONSUL_*): consul.token_file: expected x"),
        ("listen.grpc: expected x", "flag: listen.grpc: expected x"),
        ("drain.timeout: expected x", "environment: drain.timeout: expected x"),
        # The default: it belongs in the file.
        ("listen.metrics: expected x", "{path}: listen.metrics: expected x"),
        ("/x.npy: canary.echo.inputs.0: y\nlog.level: z", None),
        ("{path}: triton.models: expected x", "{path}: triton.models: expected x"),
        ("expected x", "expected x"),
    ],
)
def test_a_mistake_found_at_run_time_is_reported_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str, reported: str | None
) -> None:
    path = write(tmp_path, MINIMAL + "[consul]\nca_file = '/gone'\n")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN_FILE", "/gone")
    monkeypatch.setenv("TRITON_SIDECAR_DRAIN__TIMEOUT", "5s")
    with (
        pytest.raises(ConfigError) as caught,
        in_use(SidecarSettings, path, {"listen.grpc": "127.0.0.1:1"}),
    ):
        raise ConfigError(mistake.format(path=path))
    expected = reported or f"/x.npy: canary.echo.inputs.0: y\n{path}: log.level: z"
    assert str(caught.value) == expected.format(path=path)


@pytest.mark.parametrize("key", ["token_file", "ca_file"])
def test_files_that_consul_needs_are_checked_at_the_start(tmp_path: Path, key: str) -> None:
    text = MINIMAL + f"[consul]\naddress = 'https://x'\n{key} = '{tmp_path}/gone'\n"
    with pytest.raises(ConfigError, match=rf"^consul\.{key}: expected .*: No such file"):
        load_sidecar(write(tmp_path, text)).consul.access.check()


def test_a_token_file_is_reloaded_each_time(tmp_path: Path) -> None:
    token = tmp_path / "token"
    path = write(tmp_path, MINIMAL + f"[consul]\ntoken_file = '{token}'\n")
    consul = load_sidecar(path).consul.access
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
    assert load_xds(None).consul.access.url == url


def test_explicit_settings_beat_consuls_own_variables(
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
    consul = load_sidecar(write(tmp_path, MINIMAL + text)).consul.access
    assert (consul.url, consul.read_token()) == ("http://127.0.0.1:2", "explicit")
    assert (consul.verify, consul.ca_file) == (False, Path("/ca.pem"))
    assert load_xds(None).consul.access.read_token() == "environment"


def test_a_short_interval_is_not_lengthened_by_the_fast_one(tmp_path: Path) -> None:
    path = write(tmp_path, f"{MINIMAL}[health]\ninterval = '50ms'\n")
    assert load_sidecar(path).health.interval == 0.05


def test_a_missing_key_without_a_file_is_reported_for_the_settings() -> None:
    with pytest.raises(ConfigError, match=r"^settings: triton: missing; expected a table$"):
        load_sidecar(None)


def test_dependencies_of_models_are_read(tmp_path: Path) -> None:
    table = 'depends_on = { echo = ["tokens"], tokens = ["words", "parts"] }\n'
    text = MINIMAL.replace("[canary", table + "[canary")
    found = load_sidecar(write(tmp_path, text)).triton.depends_on
    assert found == {"echo": ("tokens",), "tokens": ("words", "parts")}
    with pytest.raises(ConfigError, match=r"triton\.depends_on\.echo: expected"):
        load_sidecar(write(tmp_path, text.replace('["tokens"]', "[]")))
