from pathlib import Path

import pytest

from sidecar.app.instance import describe
from sidecar.registry.registration import InstanceMeta, registration
from sidecar.runtime.addresses import split_address
from sidecar.runtime.errors import ConfigError
from sidecar.settings import SidecarSettings, in_use, load_sidecar, load_xds
from sidecar.settings.values import parse_duration
from sidecar.xds.config.edge import Edge

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
    [
        ("500ms", 0.5),
        ("1s", 1.0),
        ("1.5s", 1.5),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("2d", 172800.0),
        (3, 3.0),
        ("4", 4),
    ],
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
    assert settings.consul.access.read_token() == "hush"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("consul.ca_file: expected x", "{path}: consul.ca_file: expected x"),
        ("consul.token_file: expected x", "environment (CONSUL_*): consul.token_file: expected x"),
        ("listen.grpc: expected x", "flag: listen.grpc: expected x"),
        ("drain.timeout: expected x", "environment: drain.timeout: expected x"),
        # By default: it belongs into the file.
        ("listen.metrics: expected x", "{path}: listen.metrics: expected x"),
        ("/x.npy: canary.echo.inputs.0: y\nlog.level: z", None),
        ("{path}: triton.models: expected x", "{path}: triton.models: expected x"),
        ("expected --at or --in", "expected --at or --in"),
    ],
)
def test_what_is_found_in_use_is_told_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, told: str | None
) -> None:
    path = write(tmp_path, MINIMAL + "[consul]\nca_file = '/gone'\n")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN_FILE", "/gone")
    monkeypatch.setenv("TRITON_SIDECAR_DRAIN__TIMEOUT", "5s")
    with (
        pytest.raises(ConfigError) as caught,
        in_use(SidecarSettings, path, {"listen.grpc": "127.0.0.1:1"}),
    ):
        raise ConfigError(said.format(path=path))
    expected = told or f"/x.npy: canary.echo.inputs.0: y\n{path}: log.level: z"
    assert str(caught.value) == expected.format(path=path)


@pytest.mark.parametrize("key", ["token_file", "ca_file"])
def test_files_that_consul_needs_are_looked_for_at_the_start(tmp_path: Path, key: str) -> None:
    text = MINIMAL + f"[consul]\naddress = 'https://x'\n{key} = '{tmp_path}/gone'\n"
    with pytest.raises(ConfigError, match=rf"^consul\.{key}: expected .*: No such file"):
        load_sidecar(write(tmp_path, text)).consul.access.check()


def test_a_token_file_is_read_anew_each_time(tmp_path: Path) -> None:
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
    consul = load_sidecar(write(tmp_path, MINIMAL + text)).consul.access
    assert (consul.url, consul.read_token()) == ("http://127.0.0.1:2", "explicit")
    assert (consul.verify, consul.ca_file) == (False, Path("/ca.pem"))
    assert load_xds(None).consul.access.read_token() == "environment"


INPUT = '{ name = "x", datatype = "INT8", shape = [1], data = [1] }'


def canary(inputs: str = f"[{INPUT}]", expect: str = "finite = true", rest: str = "") -> str:
    return (
        f"[triton]\nmodels = ['echo']\n[canary.echo]\ninputs = {inputs}\n"
        f'expect = [{{ output = "y", {expect} }}]\n{rest}\n'
    )


def one_input(**changes: str) -> str:
    keys = {"name": '"x"', "datatype": '"INT8"', "shape": "[1]", "data": "[1]"} | changes
    return f"[{{ {', '.join(f'{key} = {value}' for key, value in keys.items() if value)} }}]"


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BOOL", "true"), ("UINT8", "255"), ("INT8", "-128"), ("UINT64", "9223372036854775807"),
        ("INT64", "-9223372036854775808"), ("FP16", "65504"), ("FP16", "-inf"), ("FP32", "nan"),
        ("FP32", "3.4e38"), ("BF16", "3.38e38"), ("FP64", "1.7e308"), ("BYTES", '"ä"'),
    ],
)  # fmt: skip
def test_values_that_a_datatype_holds(tmp_path: Path, datatype: str, data: str) -> None:
    inputs = one_input(datatype=f'"{datatype}"', data=f"[{data}]")
    (given,) = load_sidecar(write(tmp_path, canary(inputs))).canary["echo"].inputs or ()
    assert given.datatype == datatype


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BOOL", "1"), ("UINT8", "256"), ("UINT8", "-1"), ("INT8", "128"), ("INT8", "1.0"),
        ("INT8", "true"), ("INT8", "nan"), ("FP16", "65505"), ("FP16", "true"), ("FP32", "3.5e38"),
        ("BF16", "3.4e38"), ("FP32", '"1"'), ("BYTES", "1"),
    ],
)  # fmt: skip
def test_values_that_a_datatype_does_not_hold(tmp_path: Path, datatype: str, data: str) -> None:
    path = write(tmp_path, canary(one_input(datatype=f'"{datatype}"', data=f"[{data}]")))
    with pytest.raises(ConfigError) as caught:
        load_sidecar(path)
    expected = (
        f"{path}: canary.echo.inputs.0.data: expected elements of datatype {datatype}, found "
    )
    assert str(caught.value).startswith(expected)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (canary(one_input(shape="[2]")), "inputs.0.data: expected 2 elements for this shape"),
        (canary(one_input(shape="")), "inputs.0.shape: expected the shape of data"),
        (canary(one_input(data="")), "inputs.0: expected exactly one of data and file"),
        (canary(one_input(file='"x.npy"')), "inputs.0: expected exactly one of data and file"),
        (canary(one_input(data="[[1]]")), "inputs.0.data: expected a flat list of numbers"),
        (canary(one_input(datatype='"FP8"')), "inputs.0.datatype: expected 'BOOL', "),
        (canary(one_input(fiel='"x.npy"')), "inputs.0.fiel: unknown key"),
        (canary("[]"), None),
        (canary().replace("inputs", "#"), None),
        (canary(f"[{INPUT}, {INPUT}]"), "inputs: expected each name once"),
        (canary(rest=f"steps = [[{INPUT}]]"), "expected inputs or steps, found both"),
        (canary(rest=f"steps = [[{INPUT}]]").replace("inputs", "#"), None),
        (canary(rest="steps = [[], []]").replace("inputs", "#"), None),
        (canary(rest="steps = []").replace("inputs", "#"), "steps: "),
        (canary(rest=f"steps = [[{INPUT}, {INPUT}]]").replace("inputs", "#"),
         "steps: expected each name once"),
        (canary(rest="version = 'one'"), "version: "),
        (canary(rest="id = 'probe'\nparameters = { a = 'x', b = true, c = 5, d = 0.5 }"), None),
        (canary(rest="id = 5"), "id: expected a string"),
        (canary(rest="parameters = ['a']"), "parameters: expected a table of parameters"),
        (canary(rest="parameters = { '' = 1 }"), "parameters: expected parameters with names"),
        (canary(rest="parameters = { a = [1] }"), "parameters: expected strings, booleans, whole"),
        (canary(rest="parameters = { a = inf }"), "parameters: expected strings, booleans, whole"),
        (canary(rest="parameters = { a = 9223372036854775808 }"),
         "parameters: expected strings, booleans, whole numbers of 64 bits and finite numbers,"),
        (canary(rest="parameters = { triton_x = 1 }"),
         "parameters: expected names that Triton does not reserve, found 'triton_x'"),
        (canary(rest="parameters = { sequence_id = 1 }"),
         "parameters: expected no sequence_id, because steps make a sequence"),
        (canary(rest="parameters = { priority = 1 }"),
         "parameters: expected no priority, because canaries have the lowest"),
        (canary(rest="parameters = { timeout = 1 }"), "parameters: expected no timeout, because"),
        (canary(rest="latency = { warn = '2s', fail = '1s' }"),
         "latency.warn: expected at most fail"),
        (canary(rest="latency = { first_warn = '2s', first_fail = '1s' }"),
         "latency.first_warn: expected at most first_fail"),
        (canary(rest="latency = { warn = 'soon' }"), "latency.warn: expected a duration"),
        (canary(expect="atol = 1"), "expect.0: expected one or more of allclose, contains, cosine"),
        (canary(expect="equals = [1], rtol = 1"), "expect.0.rtol: expected only beside allclose"),
        (canary(expect="at_least = 1, allclose = [1]"),
         "expect.0.at_least: expected only beside cosine"),
        (canary(expect="cosine = [1], at_least = 2"), "expect.0.at_least: "),
        (canary(expect="equals = [nan]"), "expect.0.equals: expected values that equal themselves"),
        (canary(expect="equals = 1"), "expect.0.equals: expected a flat list"),
        (canary(expect="regex = '('"), "expect.0.regex: expected a regular expression: missing"),
        (canary(expect="contains = ['a', '']"), "expect.0.contains: expected a string or a list"),
        (canary(expect="contains = []"), "expect.0.contains: expected a string or a list"),
        (canary(expect="min_length = 2, max_length = 1"),
         "expect.0.min_length: expected at most max_length"),
        (canary(expect="min_length = -1"), "expect.0.min_length: "),
        (canary(expect="json_schema = { type = 'text' }"),
         "expect.0.json_schema: expected a JSON schema: $.type: 'text' is not valid"),
        (canary(expect="json_schema = { '$ref' = 'https://example.org/s' }"),
         "expect.0.json_schema: expected references within the schema, found 'https://example"),
        (canary(expect="json_schema = { '$ref' = '#/$defs/n' }"),
         "expect.0.json_schema: expected references within the schema, found '#/$defs/n'"),
        (canary(expect="json_schema = { pattern = '(' }"), "expect.0.json_schema: expected a JSON"),
        (canary(expect="json_schema = 1"), "expect.0.json_schema: expected a JSON schema as a"),
        (canary(expect="allclose = ['1']"), "expect.0.allclose: expected a flat list of numbers"),
        (canary(expect="allclose = [nan]"), "expect.0.allclose: expected a flat list of numbers"),
        (canary(expect="cosine = [1, inf]"), "expect.0.cosine: expected finite numbers"),
        (canary(expect="allclose = []"), "expect.0.allclose: expected a flat list of numbers"),
        (canary(expect="cosine = [0, 0]"), "expect.0.cosine: expected numbers that are not all"),
        (canary(expect="finite = false"), "expect.0.finite: expected true; leave it out"),
        (canary(expect="not_degenerate = 1"), "expect.0.not_degenerate: expected true"),
        (canary(expect="shape = [-2]"), "expect.0.shape.0: "),
        (canary(expect="datatype = 'float'"), "expect.0.datatype: "),
        (canary(expect="image = true"), None),
        (canary(expect="image = { min_width = 0 }"), "expect.0.image.min_width: "),
        (canary(expect="label = -1"), "expect.0.label: expected a label, or the index"),
        (canary(expect="label = true"), "expect.0.label: expected a label, or the index"),
        (canary(expect="alclose = [1]"), "expect.0.alclose: unknown key"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_canary_is_one_line(
    tmp_path: Path, text: str, complaint: str | None
) -> None:
    path = write(tmp_path, text)
    if complaint is None:
        assert load_sidecar(path).canary["echo"].expect
        return
    with pytest.raises(ConfigError) as caught:
        load_sidecar(path)
    (line,) = str(caught.value).splitlines()
    key = "canary.echo: " if complaint.startswith("expected") else "canary.echo."
    assert line.startswith(f"{path}: {key}{complaint}")


def test_canaries_can_be_printed(tmp_path: Path) -> None:
    numbers = "equals = [1, 2.5], allclose = 'v.npy'"
    printed = load_sidecar(write(tmp_path, canary(expect=numbers))).model_dump_json()
    assert '"equals":[1,2.5]' in printed
    assert f'"allclose":"{tmp_path}/v.npy"' in printed
    text = "equals = ['a'], json_schema = { type = 'object' }"
    printed = load_sidecar(write(tmp_path, canary(expect=text))).model_dump_json()
    assert '"equals":["a"]' in printed
    assert '"json_schema":{"type":"object"}' in printed


ECHO = f'[canary.echo]\ninputs = [{INPUT}]\nexpect = [{{ output = "y", finite = true }}]\n'
OTHER = ECHO.replace("echo", "other")


def models(canaries: str) -> str:
    return f"[triton]\nmodels = ['echo', 'other']\ncanaries = {canaries}\n"


def placed(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_canaries_are_read_from_files_and_globs(tmp_path: Path) -> None:
    placed(tmp_path / "a" / "canary.toml", ECHO)
    placed(tmp_path / "b" / "canary.toml", OTHER)
    for named in (
        '["*/canary.toml"]',
        f'["a/canary.toml", "{tmp_path}/b/*.toml", "b/*"]',
        f'["../{tmp_path.name}/**/canary.toml"]',
    ):
        assert set(load_sidecar(write(tmp_path, models(named))).canary) == {"echo", "other"}


def test_a_flag_overrides_what_a_file_of_canaries_says(tmp_path: Path) -> None:
    placed(tmp_path / "a" / "canary.toml", ECHO)
    path = write(tmp_path, models('["a/*"]'))
    assert load_sidecar(path, {"canary.echo.timeout": "7s"}).canary["echo"].timeout == 7.0


def test_files_are_found_from_the_file_that_names_them(tmp_path: Path) -> None:
    given = one_input(shape="", data="", file='"x.npy"')
    expect = """[{ output = "y", allclose = 'y.npy', cosine = '/y.npy' },
      { output = "z", json_schema = 'y.json' }]"""
    text = f"[canary.echo]\nsteps = [{given}]\nexpect = {expect}\n"
    placed(tmp_path / "a" / "canary.toml", text)
    found = load_sidecar(write(tmp_path, models('["a/*.toml"]'))).canary["echo"]
    assert found.steps
    assert found.steps[0][0].file == tmp_path / "a" / "x.npy"
    numbers, document = found.expect
    assert numbers.allclose == tmp_path / "a" / "y.npy"
    assert numbers.cosine == Path("/y.npy")
    assert document.json_schema == tmp_path / "a" / "y.json"
    found = load_sidecar(write(tmp_path, models("[]") + text)).canary["echo"]
    assert found.steps
    assert found.steps[0][0].file == tmp_path / "x.npy"


@pytest.mark.parametrize(
    ("own", "named", "files", "complaints"),
    [
        ("", '["gone/*.toml", "none"]', {},
         [("sidecar.toml: triton.canaries.0: expected other files or a glob of them,"
          " found no 'gone/*.toml' in {0}"),
          ("sidecar.toml: triton.canaries.1: expected other files or a glob of them,"
          " found no 'none' in {0}")]),
        ("", '["sidecar.*"]', {},
         [("sidecar.toml: triton.canaries.0: expected other files or a glob of them,"
          " found no 'sidecar.*' in {0}")]),
        (ECHO, '["a"]', {"a": ECHO},
         ["a: canary.echo: expected once, found in {0}/sidecar.toml as well"]),
        ("", '["?"]', {"a": ECHO, "b": ECHO},
         ["b: canary.echo: expected once, found in {0}/a as well"]),
        ("", '["?"]', {"a": "a =", "b": "[triton]", "c": "", "d": "canary = 1", "e": OTHER},
         ["a: expected TOML: Invalid value (at end of document)",
          "b: triton: expected nothing but [canary.MODEL] tables",
          "c: canary: expected [canary.MODEL] tables",
          "d: canary: expected [canary.MODEL] tables"]),
        ("", '["a"]', {"a": ECHO.replace("[1]", "[2]", 1)},
         ["a: canary.echo.inputs.0.data: expected 2 elements for this shape, found 1"]),
        ("", '["a"]', {"a": ECHO.replace("true", "true, x = 1")},
         [("a: canary.echo.expect.0.x: unknown key; expected one of allclose, at_least, atol,"
          " contains, cosine, datatype, equals, finite, image, json_schema, label, max_length,"
          " min_length, not_degenerate, output, regex, rtol, shape")]),
        ("", '["a"]', {"a": ECHO.partition("expect")[0]},
         ['a: canary.echo.expect: missing; expected a list such as ["a", "b"]']),
        ("", '["a", 1]', {"a": ECHO},
         ["sidecar.toml: triton.canaries.1: expected a string, found 1"]),
        ("", '"a"', {"a": ECHO},
         ["sidecar.toml: triton.canaries: expected a list such as [\"a\", \"b\"], found 'a'"]),
    ],
)  # fmt: skip
def test_a_mistake_in_files_of_canaries_names_the_file(
    tmp_path: Path, own: str, named: str, files: dict[str, str], complaints: list[str]
) -> None:
    for name, text in files.items():
        placed(tmp_path / name, text)
    with pytest.raises(ConfigError) as caught:
        load_sidecar(write(tmp_path, models(named) + own))
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/{each.format(tmp_path)}" for each in complaints
    ]


def test_a_glob_may_match_the_settings_file_itself(tmp_path: Path) -> None:
    placed(tmp_path / "echo.toml", ECHO)
    path = write(tmp_path, models('["*.toml"]'))
    assert set(load_sidecar(path).canary) == {"echo"}


def test_a_short_interval_is_not_made_longer_by_the_fast_one(tmp_path: Path) -> None:
    path = write(tmp_path, f"{MINIMAL}[health]\ninterval = '50ms'\n")
    assert load_sidecar(path).health.interval == 0.05


def test_what_is_missing_without_a_file_is_told_of_the_settings() -> None:
    with pytest.raises(ConfigError, match=r"^settings: triton: missing; expected a table$"):
        load_sidecar(None)


def test_capacity_and_zone_reach_the_instance(tmp_path: Path) -> None:
    service = '[service]\nid = "a"\ncapacity = 64\nzone = "east-1"\n'
    found = describe(load_sidecar(write(tmp_path, MINIMAL + service)))
    assert (found.capacity, found.zone) == (64, "east-1")
    found = describe(load_sidecar(write(tmp_path, MINIMAL)))
    assert (found.capacity, found.zone) == (None, "")


@pytest.mark.parametrize("text", ["capacity = 0", "capacity = true", "zone = ''", "zone = 'a b'"])
def test_what_is_no_capacity_or_zone(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"service.{text.partition(' ')[0]}: expected"):
        load_sidecar(write(tmp_path, f"{MINIMAL}[service]\n{text}\n"))


def test_what_envoy_is_told_about_itself(tmp_path: Path) -> None:
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
def test_what_envoy_would_refuse(tmp_path: Path, text: str) -> None:
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
    ("tables", "told"),
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
def test_what_is_registered_is_what_others_dial(
    tmp_path: Path, tables: str, told: tuple[str, int, str, str]
) -> None:
    body = registration(
        describe(load_sidecar(write(tmp_path, f"{MINIMAL}{tables}"))), InstanceMeta()
    )
    checked = body["Checks"][1]["GRPC"].rpartition("/")[0]
    dialled = body["Address"], body["Port"], checked, body["Meta"]["sidecar_grpc_port"]
    assert dialled == told


def test_what_the_sidecar_dials_itself_is_not_what_others_dial(tmp_path: Path) -> None:
    settings = load_sidecar(write(tmp_path, f"{MINIMAL}[service]\nport = 28001\n"))
    assert settings.triton.grpc == "127.0.0.1:8001"
    assert settings.instance.endswith("-28001")  # several of a machine have the same port inside


@pytest.mark.parametrize(
    "value", ["", "0.0.0.0", "0.0.0.0:1", "[::]:1", "::", "a b", "host:", "host:0", "http://h:1"]
)
def test_what_nobody_could_dial_is_not_advertised(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"listen\.advertise: expected the host or host:port"):
        load_sidecar(write(tmp_path, f"{MINIMAL}[listen]\nadvertise = '{value}'"))
    with pytest.raises(ConfigError, match=r"xds\.advertise: expected the host or host:port"):
        load_xds(write(tmp_path, f"[xds]\nadvertise = '{value}'"))


def test_what_models_depend_on(tmp_path: Path) -> None:
    table = 'depends_on = { echo = ["tokens"], tokens = ["words", "parts"] }\n'
    text = MINIMAL.replace("[canary", table + "[canary")
    found = load_sidecar(write(tmp_path, text)).triton.depends_on
    assert found == {"echo": ("tokens",), "tokens": ("words", "parts")}
    with pytest.raises(ConfigError, match=r"triton\.depends_on\.echo: expected"):
        load_sidecar(write(tmp_path, text.replace('["tokens"]', "[]")))
