"""Reads a traffic policy from a file: JSON as it is stored, or the same in YAML with comments.

Acts: through what it imports or is given.
"""

import json
import sys
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from sidecar.runtime.errors import ConfigError
from sidecar.traffic import document
from sidecar.traffic.policy import TrafficPolicy


def load(name: str) -> TrafficPolicy:
    """The policy in a file, or from standard input if its name is `-`.

    Raises:
        ConfigError: with every mistake, each with the file, the key and what was expected.
    """
    source = "standard input" if name == "-" else name
    try:
        given = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return as_policy(given.decode())
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: expected JSON or YAML in UTF-8, found other bytes") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{source}: expected a file with a policy: {reason}") from None
    except ConfigError as error:
        lines = (f"{source}: {line}" for line in str(error).splitlines())
        raise ConfigError("\n".join(lines)) from None


def as_policy(text: str) -> TrafficPolicy:
    """The policy in a text of JSON or YAML.

    Raises:
        ConfigError: with every mistake at once.
    """
    return document.parse(_as_json(text))


def _as_json(text: str) -> str:
    """The document as JSON, so that mistakes read the same for both formats."""
    if text.lstrip().startswith("{"):
        return text
    try:
        found = yaml.load(text, _Strict)  # noqa: S506 - it is a SafeLoader
        if found is None:  # a failed program leaves an empty pipe
            raise ConfigError("expected a policy, found nothing; {} is one with all defaults")
        return json.dumps(found)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            f"expected JSON or YAML, found a mistake{where}: {error.problem}"
        ) from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"expected JSON or YAML: {reason:.200}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"expected what JSON can hold: {error!s:.200}") from None
    except RecursionError:
        raise ConfigError("expected YAML of a few levels, found very many") from None


class _Strict(yaml.SafeLoader):
    """Refuses what JSON lacks: duplicate keys, and aliases, which can grow without bound."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not taken", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            problem = "a key is given twice here"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return found
