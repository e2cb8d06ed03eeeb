"""The rule that a module is pure unless its docstring says with what it acts."""

import pytest

from tests.checks.pure_modules import Declared, declared, faults

FORBIDDEN = {"os", "asyncio"}
PURE = "a.decision"


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Decides.", None),
        ("Acts: asyncio would be a first line, not the last.\n\nDecides.", None),
        ("A loop.\n\nActs: asyncio, os.", Declared(frozenset({"asyncio", "os"}))),
        ("Executes.\n\nActs: through what it imports or is given.", Declared()),
        ("A room.\n\nActs throughout.", Declared(throughout=True)),
    ],
)
def test_the_last_line_declares_what_acts(docstring: str, expected: Declared | None) -> None:
    assert declared(docstring) == expected


def found(imports: dict[str, set[str]], **docstrings: str) -> list[str]:
    said = {name.replace("_", "."): declared(text) for name, text in docstrings.items()}
    return list(faults(imports, {name: each for name, each in said.items() if each}, FORBIDDEN))


def test_a_pure_module_imports_neither_a_package_that_acts_nor_a_module_that_does() -> None:
    imports = {PURE: {"os.path", "a.loop", "re"}, "a.loop": {"asyncio"}}
    assert [each.split()[0::5] for each in found(imports, a_loop="Acts: asyncio.")] == [
        [PURE, "a.loop,"],
        [PURE, "os,"],
    ]


def test_a_pure_module_imports_nothing_of_a_room_that_acts_throughout() -> None:
    imports = {PURE: {"b.table"}, "b.table": {"os"}, "b": set()}
    assert len(found(imports, b="Acts throughout.")) == 1


@pytest.mark.parametrize("packages", [{"asyncio", "os"}, set()])
def test_an_acting_module_declares_exactly_what_it_imports(packages: set[str]) -> None:
    assert found({"a.loop": {"asyncio"}}, a_loop="Acts: asyncio.") == []
    assert len(found({"a.loop": packages}, a_loop="Acts: asyncio.")) == 1


def test_a_pure_module_may_import_pure_ones() -> None:
    assert found({PURE: {"a.rules", "re"}, "a.rules": set()}) == []
