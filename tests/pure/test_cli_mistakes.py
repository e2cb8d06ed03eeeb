"""Mistakes in a call are told in words of our own, whatever the library reads its values with."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from sidecar.cli.main import app
from sidecar.cli.numbers import seconds, whole
from sidecar.cli.running import flags
from tests.pure.test_settings_totality import FOREIGN

ODD = ("", " ", "x", "-1", "0", "1.5", "nan", "1e99", "9" * 500, "é", "/", "a=b", "[]")


def parameters(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any, Any]]:
    """Each parameter of each command, with its command's words."""
    for each in command.params:
        yield f"{' '.join(path)} {each.name}", command, each
    for name, inner in getattr(command, "commands", {}).items():
        yield from parameters(inner, (*path, name))


PARAMETERS = list(parameters(typer.main.get_command(app)))


@pytest.mark.parametrize("name", [name for name, _, _ in PARAMETERS])
def test_no_value_is_refused_in_the_words_of_a_library(name: str) -> None:
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
         "Invalid value for '--instances': expected a whole number from 1 to 32, found 'x'"),
        (("local", "up", "--instances", "2", "--cold", "3"),
         "Invalid value for '--cold': expected at most as many as --instances, 2, found 3"),
        (("gpu", "--timeout", "0"),
         "Invalid value for '--timeout': expected a number of seconds of at least 0.1, found '0'"),
    ],
)  # fmt: skip
def test_a_number_that_is_none_is_told_with_its_option(
    arguments: tuple[str, ...], complaint: str
) -> None:
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 2
    assert complaint in " ".join(found.output.split())


def test_what_overrides_a_setting() -> None:
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


def test_numbers_that_are_right() -> None:
    assert [whole(0)(given) for given in ("0", "7", 7)] == [0, 7, 7]
    assert [seconds(0)(given) for given in ("0", ".5", "1e1", 2.0)] == [0.0, 0.5, 10.0, 2.0]
    assert whole(-3)("-3") == -3
