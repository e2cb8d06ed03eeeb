"""Usage errors are reported in our own words, whichever library finds them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import typer
from typer.testing import CliRunner

from sidecar.cli.exit_status import ExitStatus, status_of
from sidecar.cli.main import app
from sidecar.cli.numbers import seconds, whole
from sidecar.cli.run import flags
from sidecar.runtime import errors
from sidecar.runtime.errors import SidecarError
from tests.support.pydantic_words import FOREIGN

pytestmark = pytest.mark.files

ODD = ("", " ", "x", "-1", "0", "1.5", "nan", "1e99", "9" * 500, "é", "/", "a=b", "[]")


def parameters(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any, Any]]:
    """Each parameter of each command, with the words of the command."""
    for each in command.params:
        yield f"{' '.join(path)} {each.name}", command, each
    for name, inner in getattr(command, "commands", {}).items():
        yield from parameters(inner, (*path, name))


PARAMETERS = list(parameters(typer.main.get_command(app)))


@pytest.mark.parametrize("name", [name for name, _, _ in PARAMETERS])
def test_no_invalid_value_is_reported_with_a_librarys_message(name: str) -> None:
    command, parameter = next((c, p) for n, c, p in PARAMETERS if n == name)
    if getattr(parameter, "is_flag", False):
        return  # it takes no value
    context = command.make_context("x", [], resilient_parsing=True)
    complaints = []
    for odd in ODD:
        given = (odd,) if parameter.multiple or parameter.nargs == -1 else odd
        try:
            parameter.process_value(context, given)
        except typer.BadParameter as error:
            complaints.append(error.message)
    assert not [text for text in complaints if not text.startswith("expected ")]
    assert not [text for text in complaints if any(each in text for each in FOREIGN)]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("history", "-n", "0"),
         "Invalid value for '--newest' / '-n': expected a whole number of at least 1, found '0'"),
        (("local", "up", "--instances", "x"),
         "Invalid value for '--instances': expected a whole number"),
        (("local", "up", "--instances", "33"), " from 1 to 32, found '33'"),
        (("local", "up", "--instances", "2", "--cold", "3"),
         "Invalid value for '--cold': expected at most as many as --instances, 2, found 3"),
        (("gpu", "--timeout", "0"),
         "Invalid value for '--timeout': expected a number of seconds of at least 0.1, found '0'"),
    ],
)  # fmt: skip
def test_an_invalid_number_is_reported_with_its_option(
    arguments: tuple[str, ...], complaint: str
) -> None:
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 2
    assert complaint in " ".join(found.output.split())


def test_option_values_that_override_a_setting() -> None:
    given = [
        "a.b=1",
        'a.c=["x", "y"]',
        'a.d={"x": "y"}',
        "a.e=[::1]:80",
        f"a.f={'[' * 9999}",
        "a.g=",
    ]
    assert flags(given) == {
        "a.b": "1",
        "a.c": ["x", "y"],
        "a.d": {"x": "y"},
        "a.e": "[::1]:80",
        "a.f": "[" * 9999,
        "a.g": "",
    }
    found = CliRunner().invoke(app, ("run", "--set", "x"))
    assert "for '--set': expected TABLE.KEY=VALUE, found 'x'" in " ".join(found.output.split())


def test_valid_numbers_are_accepted() -> None:
    assert [whole(0)(given) for given in ("0", "7", 7)] == [0, 7, 7]
    assert [seconds(0)(given) for given in ("0", ".5", "1e1", 2.0)] == [0.0, 0.5, 10.0, 2.0]
    assert whole(-3)("-3") == -3


DOCS = Path(__file__).parents[3] / "docs" / "operations.md"
STATUSES = {
    errors.ConfigError: ExitStatus.MISTAKE,
    errors.PartMissing: ExitStatus.MISTAKE,
    errors.AddressUnusable: ExitStatus.REFUSED,
    errors.FileUnreadable: ExitStatus.REFUSED,
    errors.Unavailable: ExitStatus.UNREACHED,
    errors.Refused: ExitStatus.UNREACHED,
    errors.NoRoom: ExitStatus.REFUSED,
    errors.DeadlineExceeded: ExitStatus.REFUSED,
    errors.Rejected: ExitStatus.REFUSED,
    errors.NotFound: ExitStatus.REFUSED,
    errors.Conflict: ExitStatus.REFUSED,
    errors.Interrupted: ExitStatus.INTERRUPTED,
    SidecarError: ExitStatus.REFUSED,
}


@pytest.mark.parametrize(("error", "status"), STATUSES.items())
def test_each_error_has_one_exit_status(error: type[SidecarError], status: ExitStatus) -> None:
    assert status_of(error("why")) is status


def test_the_docs_list_every_exit_status() -> None:
    listed = re.findall(r"^\| (\d+) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(each) for each in listed] == list(ExitStatus)


COMMANDS = {name.rpartition(" ")[0]: command for name, command, _ in PARAMETERS}
WITH_JSON = [
    words for words, command in COMMANDS.items() if any("--json" in p.opts for p in command.params)
]


def test_the_help_of_every_command_lists_its_exit_statuses() -> None:
    verbs = [words for words in COMMANDS if words and not hasattr(COMMANDS[words], "commands")]
    assert [words for words in verbs if "Exit status:" not in (COMMANDS[words].epilog or "")] == []


def failure(*arguments: str, status: int) -> Any:
    """The one JSON object about a failure, and nothing else on standard output."""
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == status, found.output
    document = json.loads(found.stdout)
    assert document["done"] is False
    assert "Traceback" not in found.stderr
    return document["why"]


@pytest.mark.parametrize("words", WITH_JSON)
def test_a_usage_error_is_reported_as_json(words: str) -> None:
    assert "No such option: --nope" in failure(*words.split(), "--json", "--nope", status=2)


def test_a_usage_error_that_the_library_finds_is_reported_as_json() -> None:
    assert "No such command 'nope'" in failure("nope", "--json", status=2)
    assert "INSTANCE" in failure("xds", "explain", "--json", status=2)
    assert "-n" in failure("history", "-n", "0", "--json", status=2)
    assert "--config or files" in failure("canary", "test", "--json", status=2)
    assert "/none: " in failure("local", "status", "--mesh=/none", "--json", status=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--config=/none.toml"),
        ("run", "--config=/none.toml", "--check-config"),
        ("xds", "--config=/none.toml"),
        ("xds", "--config=/none.toml", "--check-config"),
        ("gpu", "--config=/none.toml"),
        ("list", "--config=/none.toml"),
        ("canary", "list", "--config=/none.toml"),
        ("local", "status", "--mesh=/none"),
        ("local", "up", "--dir=/proc/none"),
        ("local", "up", "--detach", "--dir=/proc/none"),
    ],
)
def test_a_missing_file_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 2
    assert found.stdout == ""
    assert found.stderr
    assert all(line.startswith("triton-sidecar: ") for line in found.stderr.splitlines())


SIDECAR = "triton.models = ['m']\n"
NOMAD = f"{{ kind = 'nomad', task = 't', allocation = '{UUID(int=1)}', token_file = '/gone' }}"
CANARY = """{ inputs = [{ name = 'x', datatype = 'FP32', file = '/gone.npy' }],
  expect = [{ output = 'y', finite = true }] }""".replace("\n", "")


@pytest.mark.parametrize("check", [("--check-config",), ()])
@pytest.mark.parametrize(
    ("verb", "text", "key"),
    [
        ("xds", "consul.token_file = '/gone'", "consul.token_file"),
        ("xds", "consul = { address = 'https://[::1]', ca_file = '/gone' }", "consul.ca_file"),
        ("run", f"{SIDECAR}consul.token_file = '/gone'", "consul.token_file"),
        ("run", f"{SIDECAR}triton.header_files.key = '/gone'", "triton.header_files.key"),
        ("run", f"{SIDECAR}recovery.action = {NOMAD}", "recovery.action.token_file"),
        ("run", f"{SIDECAR}canary.m = {CANARY}", "canary.m.inputs.0.file"),
    ],
)  # fmt: skip
def test_a_file_that_may_appear_later_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    verb: str,
    text: str,
    key: str,
    check: tuple[str, ...],
) -> None:
    """The units stop after a usage error, and restart after any other failure."""
    monkeypatch.setattr("sidecar.telemetry.metrics.serve", lambda *_: None)
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    found = CliRunner().invoke(app, (verb, f"--config={path}", *check))
    assert found.exit_code == ExitStatus.REFUSED, found.output
    assert f"{key}: expected" in found.stderr


def test_a_file_that_may_appear_later_does_not_hide_a_usage_error() -> None:
    gone, wrong = errors.FileUnreadable("a: gone"), errors.ConfigError("b: wrong")
    assert status_of(errors.combined([gone, gone])) is ExitStatus.REFUSED
    assert status_of(errors.combined([gone, wrong])) is ExitStatus.MISTAKE
    assert str(errors.combined([gone, wrong])) == "a: gone\nb: wrong"


def test_ctrl_c_is_reported_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sidecar.cli.operator.listing.operate", interrupted)
    assert failure("list", "--json", status=130) == "interrupted"
