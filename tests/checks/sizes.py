"""Prints how large `sidecar/` is, for information: `make sizes`.

The bounds are 14 source files per folder, 400 lines per file, 7 parameters per function, and for
lines per function a median of 8 and a 90th percentile of 22. Code that protoc generated does not
count, nor do the parameters of commands, which are flags.
"""

import ast
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "sidecar"
FILES, LINES, PARAMETERS, MEDIAN, P90 = 14, 400, 7, 8, 22
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def main() -> None:
    """Print the figures, and everything that exceeds a bound."""
    texts = {path: path.read_text() for path in sorted(SOURCES.rglob("*.py")) if _counts(path)}
    functions = [(path, each) for path, text in texts.items() for each in _functions(text)]
    folders = Counter(path.parent for path in texts)
    lines = sorted(_lines(each) for _, each in functions)
    median, p90 = statistics.median(lines), lines[len(lines) * 9 // 10]
    print(f"{sum(text.count(chr(10)) for text in texts.values())} lines in {len(texts)} files")
    print(f"{len(lines)} functions: median {median:g} lines, p90 {p90}, longest {lines[-1]}")
    exceeded = [
        *(f"{_name(path)}: {count} files" for path, count in folders.items() if count > FILES),
        *(
            f"{_name(path)}: {count} lines"
            for path, text in texts.items()
            if (count := text.count("\n")) > LINES
        ),
        *(
            f"{_name(path)}: {each.name} has {count} parameters"
            for path, each in functions
            if (count := _parameters(each)) > PARAMETERS and path.parts[len(SOURCES.parts)] != "cli"
        ),
        *([f"median of functions: {median:g} lines"] if median > MEDIAN else []),
        *([f"90th percentile of functions: {p90} lines"] if p90 > P90 else []),
    ]
    for line in exceeded:
        print(line)


def _counts(path: Path) -> bool:
    return "v1" not in path.relative_to(SOURCES).parts


def _name(path: Path) -> str:
    return str(path.relative_to(SOURCES.parent))


def _functions(text: str) -> Iterator[_Function]:
    return (each for each in ast.walk(ast.parse(text)) if isinstance(each, _Function))


def _lines(function: _Function) -> int:
    """Its number of lines, without decorators and docstring."""
    first, *rest = function.body
    said = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if said and rest else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def _parameters(function: _Function) -> int:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return len([each for each in named if each.arg not in ("self", "cls")])


if __name__ == "__main__":
    main()
