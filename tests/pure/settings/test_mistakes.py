"""How mistakes in settings are reported: a line each, in our own words."""

from pathlib import Path

import pytest

from sidecar.runtime.errors import ConfigError
from sidecar.settings import load_sidecar
from tests.support.settings_files import INPUT, canary, one_input, write

pytestmark = pytest.mark.files

MODEL = "[triton]\nmodels = ['echo']\n"
DEEP = "[" * 100 + "]" * 100


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (canary(expect=f"allclose = [{'9' * 400}]"),
         "canary.echo.expect.0.allclose.0: expected an integer of at most 64 bits"),
        (f"{MODEL}[health]\nrise = 0x{'f' * 5000}",
         "health.rise: expected an integer of at most 64 bits"),
        (canary(one_input(shape="[9223372036854775807, 0]", data="[]")),
         "canary.echo.inputs.0.shape: expected at most 64 MiB, found [9223372036854775807, 0]"),
        (canary(one_input(shape="[100000, 100000, 3]", data="", file='"a.png"')),
         "canary.echo.inputs.0.shape: expected at most 64 MiB, found [100000, 100000, 3] of INT8"),
        (canary(one_input(shape=str([1] * 33))),
         "canary.echo.inputs.0.shape: expected at most 32 extents, found 33"),
        (canary(expect="json_schema = { '$schema' = 5 }"),
         "canary.echo.expect.0.json_schema: expected a JSON schema: $['$schema']: 5 is not of"),
        (canary(expect="json_schema = { '$ref' = '#' }"),
         "canary.echo.expect.0.json_schema: expected a JSON schema that can judge null, found rec"),
        (canary(expect="json_schema = { items = { '$schema' = 'x' } }"),
         "canary.echo.expect.0.json_schema: expected $schema at the top of a JSON schema"),
        (canary(expect="json_schema = { patternProperties = { '(' = {} } }"),
         "canary.echo.expect.0.json_schema: expected a JSON schema: '(': missing )"),
        (canary(expect=f"json_schema = {{ pattern = '{'(' * 3000}' }}"),
         "canary.echo.expect.0.json_schema: expected a JSON schema: '((((("),
        (f"x = {DEEP}", "x.0.0.0: expected at most 64 levels of tables and lists"),
        (f"x = {DEEP * 100}", None),
        (f"x = {'[' * 5000}", "expected TOML of at most 64 levels"),
        ('[triton]\nmodels = ["a\\u0007"]', "triton.models.0: expected the name of a model, found"),
        (canary(expect="regex = ''"),
         "canary.echo.expect.0.regex: expected a regular expression, f"),
        (canary(expect=f"regex = '{'a' * 300}('"),
         (f"canary.echo.expect.0.regex: expected a regular expression: missing ) at position 301,"
         f" found '{'a' * 78}…")),
        (canary(one_input(name="''")), "canary.echo.inputs.0.name: expected a string that is not"),
        (canary(expect="finite = true, output = ''").replace('output = "y", ', ""),
         "canary.echo.expect.0.output: expected a string that is not empty, found ''"),
        (canary(expect="label = 9223372036854775808"),
         "canary.echo.expect.0.label: expected a labe"),
        (canary(expect="allclose = [1], atol = true"),
         "canary.echo.expect.0.atol: expected a number, found true"),
        (canary(expect="allclose = [1], rtol = inf"),
         "canary.echo.expect.0.rtol: expected a finite number, found inf"),
        (canary(expect="image = { min_width = 5000, min_height = 5000 }"),
         "canary.echo.expect.0.image.min_width: expected at most 16777216 pixels, found 5000 x 5"),
        (canary(expect="datatype = 'BYTES', allclose = [1]"),
         ("canary.echo.expect.0.allclose: expected"
         " no condition on numbers with datatype, which is on text")),
        (canary(expect="datatype = 'BYTES', equals = [1]"),
         "canary.echo.expect.0.equals: expected no condition on numbers with datatype"),
        (canary(expect="datatype = 'FP32', regex = 'a'"),
         "canary.echo.expect.0.regex: expected no condition on text with datatype, which is on"),
        (canary(expect="finite = true, label = 'cat'"),
         "canary.echo.expect.0.label: expected no condition on text with finite, which is on"),
        (canary(expect="datatype = 'INT8', equals = [1, 300]"),
         "canary.echo.expect.0.equals: expected elements that INT8 can have, found 300"),
        (canary(expect="datatype = 'INT8', equals = [true]"),
         "canary.echo.expect.0.equals: expected elements that INT8 can have, found true"),
        (canary(expect="shape = [3], equals = [1]"),
         "canary.echo.expect.0.equals: expected as many elements as the shape [3] holds, found 1"),
        (canary(expect="shape = [-1, 2], cosine = [1, 2, 3]"),
         "canary.echo.expect.0.cosine: expected as many elements as the shape [-1, 2] hold"),
        (canary(expect="equals = [1, 'a']"),
         "canary.echo.expect.0.equals: expected a flat list of numbers, of booleans or of strings"),
        (canary(expect="min_length = 2, max_length = 1"),
         "canary.echo.expect.0.min_length: expected at most max_length, which is 1, found 2"),
        (canary(rest="latency = { warn = '2s', fail = '1s' }"),
         "canary.echo.latency.warn: expected at most fail, which is 1 s, found 2 s"),
        (canary(f"[{INPUT}, {INPUT}]"),
         "canary.echo.inputs: expected each name once, found 'x' twi"),
        (canary(rest="version = '1\\u0661'").replace("'1", '"1').replace("1'", '1"'),
         'canary.echo.version: expected a version such as "1", found'),
        (canary(expect="image = { width = 1 }"),
         "canary.echo.expect.0.image.width: unknown key; expected one of min_height, min_width"),
        (canary(one_input(fiel="1")),
         "canary.echo.inputs.0.fiel: unknown key; expected one of dat"),
        (canary(rest="steps = [[{ nme = 1 }]]"), None),
        (f"{MODEL}[canary.a.b]\ninputs = []",
         'canary.a.b: unknown table; a model whose name has a dot is quoted: [canary."a.b"]'),
        (f"{MODEL}[canary.a.b.c]\ninputs = []",
         'canary.a.b: unknown table; a model whose name has a dot is quoted: [canary."a.b.c"]'),
        (f"canary = 5\n{MODEL}", "canary: expected a table, found 5"),
        (f"[canary]\necho = [1]\n{MODEL}", "canary.echo: expected a table, found [1]"),
        (f"_env_file = 3\n{MODEL}",
         "_env_file: unknown key; expected one of canary, consul, drain"),
        ("[triton]\nmodels = []", "triton.models: expected at least 1 item, found 0"),
        ("[triton]\nmodels = ['a', 'a']",
         "triton.models: expected each model once, found 'a' twic"),
        (f"{MODEL}[health]\nrise = true", "health.rise: expected a number, found true"),
        (f"{MODEL}[health]\nrise = 1.5", "health.rise: expected a whole number, found 1.5"),
        (f"{MODEL}[health]\nfall = 1001", "health.fall: expected at most 1000, found 1001"),
        (f"{MODEL}[health]\nrepeat = 3\nwindow = 2",
         "health.repeat: expected at most window, which is 2, found 3"),
        (f"{MODEL}[health]\nmax_hold = 1",
         "health.max_hold: expected at least hold, which is 2 s, found 1 s"),
        (f"{MODEL}[health]\nfast_interval = '2s'",
         "health.fast_interval: expected at most interval, which is 1 s, found 2 s"),
        (f"{MODEL}[health]\ncanary_rate = inf",
         "health.canary_rate: expected a finite number, found inf"),
        (f"{MODEL}[health]\ncanary_rate = 0.001",
         "health.canary_rate: expected at least 0.01, foun"),
        (f"{MODEL}[health]\nweights = [[inf, 50]]", "health.weights.0.0: expected a finite number"),
        (f"{MODEL}[health]\nweights = [[1, 50, 3]]",
         "health.weights.0: expected at most 2 items, f"),
        (f"{MODEL}[health]\ninterval = '5 days'",
         'health.interval: expected a duration in ms, s, m, h or d, such as "500ms" or "2m"'),
        (f"{MODEL}[health]\ninterval = 1e300",
         "health.interval: expected a duration of at most 876"),
        (f"{MODEL}[health]\ngrace = 1979-05-27",
         "health.grace: expected a duration in ms, s, m, h or d, such as"),
        (f"{MODEL}[election]\nsession_ttl = '5s'",
         "election.session_ttl: expected at least 10 s, found '5s'"),
        (f"{MODEL}[gpu]\nmemory_warning = '{'9' * 400}GiB'", "gpu.memory_warning: expected a size"),
        (f"{MODEL}[gpu]\nxid_ignore = 63", 'gpu.xid_ignore: expected a list such as ["a", "b"], f'),
        (f"{MODEL}[service]\nname = '-x'",
         "service.name: expected a name of up to 63 letters, digi"),
        (f"{MODEL}[service]\nid = '_nomad-task-x'",
         "service.id: expected an id of up to 255 letters, digits"),
        (f"{MODEL}[service]\nid = '{'x' * 256}'", "service.id: expected an id of up to 255 letter"),
        (f"{MODEL}[service.meta]\n'a b' = 'c'", 'service.meta."a b": expected a key of up to 128'),
        (f"{MODEL}[service.meta]\na = 1", "service.meta.a: expected a string, found 1"),
        (f"{MODEL}[consul]\nverify = 'perhaps'",
         "consul.verify: expected true or false, found 'per"),
        (f"{MODEL}[consul]\nca_file = true", "consul.ca_file: expected a path, found true"),
        (f"{MODEL}[log]\nlevel = 'loud'", "log.level: expected 'debug', 'info', 'warning' or 'err"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_in_the_terms_of_the_settings(
    tmp_path: Path, text: str, complaint: str | None
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_sidecar(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") and len(line) < 600 for line in lines)
    if complaint is not None:
        (line,) = lines
        assert line.removeprefix(f"{path}: ").startswith(complaint)


def test_a_mistake_in_secrets_does_not_show_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_sidecar(write(tmp_path, f"{MODEL}[consul]\ntoken = 12345\n"))
    assert str(caught.value).endswith("consul.token: expected a string")


def test_a_variable_that_is_not_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("a, b", "[" * 100_000):
        monkeypatch.setenv("TRITON_SIDECAR_TRITON__MODELS", value)
        with pytest.raises(ConfigError) as caught:
            load_sidecar(None)
        assert str(caught.value) == (
            "environment: TRITON_SIDECAR_TRITON__MODELS: expected JSON, because lists and tables"
            " are written so"
        )
