"""A contract for import-linter: a module is pure unless it is listed as one that acts."""

from importlinter import Contract, ContractCheck, fields, output


class PureContract(Contract):
    """Modules that decide import nothing that acts: no clock, network, disk or loop, none of ours.

    `acting` lists those that may, with all below them; `forbidden` the packages that no other one
    imports. Imports for types alone do not count.
    """

    acting = fields.SetField(subfield=fields.StringField())
    forbidden = fields.SetField(subfield=fields.StringField())

    def check(self, graph, verbose):  # type: ignore[no-untyped-def]
        """Every arrow from a pure module to what acts."""
        acting: set[str] = set(self.acting)  # type: ignore[call-overload]
        forbidden: set[str] = set(self.forbidden)  # type: ignore[call-overload]
        unknown = sorted(acting - graph.modules)
        wrong = [
            (module, imported)
            for module in sorted(graph.modules)
            if _is_ours(module) and not _is_within(module, acting)
            for imported in sorted(graph.find_modules_directly_imported_by(module))
            if _is_within(imported, acting | forbidden)
        ]
        return ContractCheck(
            kept=not (wrong or unknown), metadata={"wrong": wrong, "gone": unknown}
        )

    def render_broken_contract(self, check):  # type: ignore[no-untyped-def]
        """Say which imports make a module impure, and which that is listed does not exist."""
        for module, imported in check.metadata["wrong"]:
            output.print_error(f"{module} decides, and imports {imported}, which acts")
        for module in check.metadata["gone"]:
            output.print_error(f"{module} is listed as acting, and does not exist")


def _is_ours(module: str) -> bool:
    return _is_within(module, {"sidecar"})


def _is_within(module: str, roots: set[str]) -> bool:
    parts = module.split(".")
    return any(".".join(parts[:count]) in roots for count in range(1, len(parts) + 1))
