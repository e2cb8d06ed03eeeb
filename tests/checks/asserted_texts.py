"""The texts in a module, and those that tests compare with what the code says.

A test compares with operators, `match=`, or a method such as `startswith`. The texts are in the
comparison itself, in what a name in it was assigned, in a column of a table, or in a constant.
"""

import ast
import builtins
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_COMPARING = {"startswith", "endswith", "search", "match", "fullmatch", "count", "find", "index"}
_Named = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def places(tests: Path) -> Iterator[tuple[str, str]]:
    """Each text that a module of the tests asserts, with its place as pytest would write it."""
    for path in sorted(tests.rglob("*.py")):
        for name, expressions in _by_name(ast.parse(path.read_text())):
            for text in (text for each in expressions for text in texts(each, inputs=False)):
                yield f"{path.relative_to(tests)}::{name}", text


def sought(module: ast.Module) -> set[str]:
    """The constants that a module of the code looks for in texts: other programs write these."""
    nodes = list(ast.walk(module))
    looked_for = [
        each.left
        for each in nodes
        if isinstance(each, ast.Compare) and isinstance(each.ops[0], ast.In)
    ]
    names = _names(_with_values(looked_for, nodes))
    return {
        text
        for target, value in _assigned(module.body)
        if isinstance(value, ast.Constant | ast.Tuple) and _names([target]) & names
        for text in texts(value)
    }


def _by_name(module: ast.Module) -> Iterator[tuple[str, list[ast.expr]]]:
    """What is compared in each function and class of a module, and in each constant named there."""
    compared: set[str] = set()
    for node in module.body:
        if isinstance(node, _Named):
            expressions = _compared(node)
            compared |= _names(expressions)
            yield node.name, expressions
    for target, value in _assigned(module.body):
        if names := _names([target]) & compared:
            yield min(names), [value]


def _compared(node: ast.AST) -> list[ast.expr]:
    """The comparisons below a node, and what the names in them were assigned there."""
    nodes = list(ast.walk(node))
    return _with_values([each for below in nodes for each in _comparison(below)], nodes)


def _with_values(found: list[ast.expr], nodes: list[ast.AST]) -> list[ast.expr]:
    """Expressions, with what the names in them are assigned in any of the nodes."""
    assigned = [*_assigned(nodes), *_columns(nodes)]
    seen: set[str] = set()
    while new := _names(found) - seen:
        seen |= new
        found = [*found, *(value for target, value in assigned if _names([target]) & new)]
    return found


def _comparison(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.Compare(left=left, comparators=others):
            return [left, *others]
        case ast.Call(func=ast.Attribute(value=value, attr=name), args=arguments):
            return [value, *arguments] if name in _COMPARING else []
        case ast.keyword(arg="match", value=value):
            return [value]
    return []


def _assigned(nodes: Sequence[ast.AST]) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Each target with its value."""
    for node in nodes:
        match node:
            case ast.Assign(targets=[target], value=value):
                yield target, value
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                yield target, value


def _columns(nodes: list[ast.AST]) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Each name of a table, of `parametrize` or of a loop, with each value in its column."""
    for each in nodes:
        match each:
            case ast.Call(func=ast.Attribute(attr="parametrize"), args=[names, rows, *_]):
                yield from _cells(_parameters(names), rows)
            case ast.For(target=target, iter=rows) | ast.comprehension(target=target, iter=rows):
                yield from _cells(target, rows)


def _parameters(names: ast.expr) -> ast.expr:
    """The parameters of a table, as the target of a loop over it."""
    match names:
        case ast.Constant(value=str(name)):
            return ast.Name(name)
        case ast.Tuple(elts=found) | ast.List(elts=found):
            return ast.Tuple([_parameters(each) for each in found])
    return names


def _cells(target: ast.expr, rows: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    """The cells of a table that is written where it is used; of another one, its name."""
    for row in _elements(rows) or [rows]:
        match target, _elements(row):
            case ast.Tuple(elts=names), cells if len(names) == len(cells):
                yield from zip(names, cells, strict=True)
            case _:
                yield target, row


def _elements(node: ast.expr) -> list[ast.expr]:
    match node:
        case ast.Tuple(elts=found) | ast.List(elts=found) | ast.Set(elts=found):
            return found
        case ast.Call(func=ast.Attribute(attr="param"), args=found):
            return found
    return []


def _names(expressions: Iterable[ast.expr]) -> set[str]:
    """The names in expressions, except in inputs."""
    return {
        each.id
        for expression in expressions
        for each in _parts(expression)
        if isinstance(each, ast.Name)
    }


def texts(node: ast.AST, inputs: bool = True) -> Iterator[str]:
    """Every text below a node but docstrings, with `{}` for each value in it.

    Those in inputs are left out unless they count.
    """
    match node:
        case ast.BinOp(left=ast.Constant(value=str()) | ast.JoinedStr(), op=ast.Add()):
            yield "".join(text for each in _below(node, inputs) for text in texts(each, inputs))
            return
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=values):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "{}" for part in values
            )
    for each in _below(node, inputs):
        yield from texts(each, inputs)


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, except inputs."""
    yield node
    for each in _below(node, inputs=False):
        yield from _parts(each)


def _below(node: ast.AST, inputs: bool) -> list[ast.AST]:
    """What a node consists of: no docstring, no part of a text, and inputs only if they count."""
    match node:
        case ast.JoinedStr(values=values):
            return [each for each in values if isinstance(each, ast.FormattedValue)]
        case ast.Expr(value=ast.Constant()):
            return []
        case ast.Call(func=function) if not inputs and _is_ours(function):
            return [function]
    return list(ast.iter_child_nodes(node))


def _is_ours(function: ast.expr) -> bool:
    """Whether it is a function, whose arguments are inputs: none that makes or compares values."""
    match function:
        case ast.Name(id=name):
            return name.islower() and name != "replace" and not hasattr(builtins, name)
        case ast.Attribute(attr=name):
            return name.islower() and name not in _COMPARING | {"param", "join", "compile"}
    return False
