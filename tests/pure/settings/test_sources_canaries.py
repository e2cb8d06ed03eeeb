"""Canaries in settings, and in separate files."""

from pathlib import Path

import pytest

from sidecar.runtime.errors import ConfigError
from sidecar.settings import load_sidecar
from tests.support.settings_files import INPUT, canary, one_input, write
from tests.support.settings_files import without_consul_variables as without_consul_variables

pytestmark = pytest.mark.files


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BOOL", "true"), ("UINT8", "255"), ("INT8", "-128"), ("UINT64", "9223372036854775807"),
        ("INT64", "-9223372036854775808"), ("FP16", "65504"), ("FP16", "-inf"), ("FP32", "nan"),
        ("FP32", "3.4e38"), ("BF16", "3.38e38"), ("FP64", "1.7e308"), ("BYTES", '"ä"'),
    ],
)  # fmt: skip
def test_values_that_fit_a_datatype(tmp_path: Path, datatype: str, data: str) -> None:
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
def test_values_that_do_not_fit_a_datatype(tmp_path: Path, datatype: str, data: str) -> None:
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
        (canary(f"[{INPUT}, {INPUT}]"), "inputs: expected each"),
        (canary(rest=f"steps = [[{INPUT}]]"), "expected inputs or steps, found both"),
        (canary(rest=f"steps = [[{INPUT}]]").replace("inputs", "#"), None),
        (canary(rest="steps = [[], []]").replace("inputs", "#"), None),
        (canary(rest="steps = []").replace("inputs", "#"), "steps: "),
        (canary(rest=f"steps = [[{INPUT}, {INPUT}]]").replace("inputs", "#"),
         "steps: expected each"),
        (canary(rest="version = 'one'"), "version: "),
        (canary(rest="id = 'probe'\nparameters = { a = 'x', b = true, c = 5, d = 0.5 }"), None),
        (canary(rest="id = 5"), "id: expected a string"),
        (canary(rest="parameters = ['a']"), "parameters: expected a table"),
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
         "latency.warn: "),
        (canary(rest="latency = { first_warn = '2s', first_fail = '1s' }"),
         "latency.first_warn: "),
        (canary(rest="latency = { warn = 'soon' }"), "latency.warn: expected a duration"),
        (canary(expect="atol = 1"), "expect.0: expected one or more of allclose, contains, cosine"),
        (canary(expect="equals = [1], rtol = 1"), "expect.0.rtol: expected only with allclose"),
        (canary(expect="at_least = 1, allclose = [1]"),
         "expect.0.at_least: expected only with cosine"),
        (canary(expect="cosine = [1], at_least = 2"), "expect.0.at_least: "),
        (canary(expect="equals = [nan]"), "expect.0.equals: expected values that equal themselves"),
        (canary(expect="equals = 1"), "expect.0.equals: expected a flat list"),
        (canary(expect="regex = '('"), "expect.0.regex: expected a regular"),
        (canary(expect="contains = ['a', '']"), "expect.0.contains: expected a string or a list"),
        (canary(expect="contains = []"), "expect.0.contains: expected a string or a list"),
        (canary(expect="min_length = 2, max_length = 1"),
         "expect.0.min_length: "),
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
        (canary(expect="cosine = [1, inf]"), "expect.0.cosine: "),
        (canary(expect="allclose = []"), "expect.0.allclose: expected a flat list of numbers"),
        (canary(expect="cosine = [0, 0]"), "expect.0.cosine: expected numbers that are not all"),
        (canary(expect="finite = false"), "expect.0.finite: expected true; leave it out"),
        (canary(expect="not_degenerate = 1"), "expect.0.not_degenerate: expected true"),
        (canary(expect="shape = [-2]"), "expect.0.shape.0: "),
        (canary(expect="datatype = 'float'"), "expect.0.datatype: "),
        (canary(expect="image = true"), None),
        (canary(expect="image = { min_width = 0 }"), "expect.0.image.min_width: "),
        (canary(expect="label = -1"), "expect.0.label: "),
        (canary(expect="label = true"), "expect.0.label: "),
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


def test_files_are_found_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
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
         ["a: canary.echo.inputs.0.data: "]),
        ("", '["a"]', {"a": ECHO.replace("true", "true, x = 1")},
         ["a: canary.echo.expect.0.x: unknown key"]),
        ("", '["a"]', {"a": ECHO.partition("expect")[0]},
         ["a: canary.echo.expect: missing"]),
        ("", '["a", 1]', {"a": ECHO},
         ["sidecar.toml: triton.canaries.1: expected a string, found 1"]),
        ("", '"a"', {"a": ECHO},
         ["sidecar.toml: triton.canaries: expected a list"]),
    ],
)  # fmt: skip
def test_a_mistake_in_files_of_canaries_names_the_file(
    tmp_path: Path, own: str, named: str, files: dict[str, str], complaints: list[str]
) -> None:
    for name, text in files.items():
        placed(tmp_path / name, text)
    with pytest.raises(ConfigError) as caught:
        load_sidecar(write(tmp_path, models(named) + own))
    for line, each in zip(str(caught.value).splitlines(), complaints, strict=True):
        assert line.startswith(f"{tmp_path}/{each.format(tmp_path)}")


def test_a_glob_may_match_the_settings_file_itself(tmp_path: Path) -> None:
    placed(tmp_path / "echo.toml", ECHO)
    path = write(tmp_path, models('["*.toml"]'))
    assert set(load_sidecar(path).canary) == {"echo"}
