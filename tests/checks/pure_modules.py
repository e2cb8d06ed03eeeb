"""A contract for import-linter: a module is pure unless its docstring says that it acts.

The last line of an acting module's docstring is `Acts: ` and the packages that it acts with:
`Acts: asyncio, os.` One that acts only through modules or arguments says `Acts: through …`.
`Acts throughout.` in a package's `__init__` is about all modules below it. Generated `*_pb2_grpc`
modules act.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from importlinter import Contract, ContractCheck, fields, output

_LINE = re.compile(r"^Acts(?P<throughout> throughout\.)?(?:: (?P<how>.+)\.)?\Z", re.MULTILINE)
_GENERATED = "_pb2_grpc"


@dataclass(frozen=True, slots=True)
class Declared:
    """What the docstring of an acting module says: its packages, and whether it covers a room."""

    packages: frozenset[str] = frozenset()
    throughout: bool = False


class PureContract(Contract):
    """Modules that decide import nothing that acts: no clock, network, disk or loop, none of ours.

    `forbidden` are the packages that a module must declare to import them. Imports for types alone
    do not count.
    """

    forbidden = fields.SetField(subfield=fields.StringField())

    def check(self, graph, verbose):  # type: ignore[no-untyped-def]
        """Every import by which a module acts without saying so, and what is said in vain."""
        forbidden: set[str] = set(self.forbidden)  # type: ignore[call-overload]
        imports = {
            module: set(graph.find_modules_directly_imported_by(module))
            for module in graph.modules
            if _is_within(module, {"sidecar"})
        }
        said = {module: found for module in imports if (found := declared(_docstring(module)))}
        wrong = sorted(faults(imports, said, forbidden))
        return ContractCheck(kept=not wrong, metadata={"wrong": wrong})

    def render_broken_contract(self, check):  # type: ignore[no-untyped-def]
        """Say what makes a module impure, or is declared and not so."""
        for fault in check.metadata["wrong"]:
            output.print_error(fault)


def declared(docstring: str) -> Declared | None:
    """What a module's docstring says about acting; None if the module is pure."""
    found = _LINE.search(docstring.strip())
    if found is None:
        return None
    how = found["how"] or ""
    named = () if how.startswith("through ") else how.split(", ")
    return Declared(frozenset(filter(None, named)), bool(found["throughout"]))


def faults(
    imports: Mapping[str, set[str]], said: Mapping[str, Declared], forbidden: set[str]
) -> Iterator[str]:
    """What is wrong with modules that import these, and say that, in one line each."""
    rooms = {module for module, found in said.items() if found.throughout}
    acting = {module for module in imports if module.endswith(_GENERATED)} | set(said)
    for module, imported in imports.items():
        if _is_within(module, rooms) or module.endswith(_GENERATED):
            continue
        packages = {each.split(".")[0] for each in imported} & forbidden
        if module not in said:
            for each in sorted(packages | _acting(imported, acting, rooms)):
                yield f"{module} is pure, and imports {each}, which acts"
        elif packages != said[module].packages:
            expected = _listed(said[module].packages)
            yield f"{module} says it acts with {expected}; it imports {_listed(packages)}"


def _acting(imported: set[str], acting: set[str], rooms: set[str]) -> set[str]:
    return {each for each in imported if each in acting or _is_within(each, rooms)}


def _listed(packages: set[str] | frozenset[str]) -> str:
    return ", ".join(sorted(packages)) or "nothing"


def _docstring(module: str) -> str:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""


def _is_within(module: str, roots: set[str]) -> bool:
    parts = module.split(".")
    return any(".".join(parts[:count]) in roots for count in range(1, len(parts) + 1))
