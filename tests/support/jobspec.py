"""A reader of Nomad job files without Nomad: HCL 2, and the keys that Nomad accepts.

Nomad rejects a job with an unknown key, and no package registry has Nomad, so this module contains
the part of its job specification that our files use (Nomad 1.4 and later).
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hcl2

_UPDATE = {"max_parallel", "health_check", "min_healthy_time", "healthy_deadline"}
_MAP: set[str] = set()  # any key

# Attributes and blocks of each block.
_KNOWN: dict[str, tuple[set[str], set[str]]] = {
    "": (set(), {"variable", "job"}),
    "variable": ({"type", "default", "description"}, set()),
    "job": (
        {"datacenters", "type", "region", "namespace", "priority"},
        {"update", "group", "constraint", "migrate", "reschedule", "meta", "periodic"},
    ),
    "update": (_UPDATE | {"progress_deadline", "auto_revert", "canary", "stagger"}, set()),
    "migrate": (_UPDATE, set()),
    "periodic": ({"cron", "crons", "prohibit_overlap", "time_zone", "enabled"}, set()),
    "reschedule": (
        {"attempts", "interval", "delay", "delay_function", "max_delay", "unlimited"},
        set(),
    ),
    "constraint": ({"attribute", "operator", "value"}, set()),
    "group": (
        {"count", "shutdown_delay"},
        {
            "constraint", "migrate", "network", "restart", "service", "task", "update", "volume",
            "ephemeral_disk", "disconnect", "meta",
        },
    ),
    "restart": ({"attempts", "interval", "delay", "mode", "render_templates"}, set()),
    "ephemeral_disk": ({"migrate", "size", "sticky"}, set()),
    "network": ({"mode", "hostname"}, {"port", "dns"}),
    "port": ({"static", "to", "host_network"}, set()),
    "volume": ({"type", "source", "read_only", "access_mode", "attachment_mode"}, set()),
    "service": ({"name", "provider", "port", "tags", "address_mode"}, {"check", "meta"}),
    "check": (
        {"type", "interval", "timeout", "port", "path", "grpc_service", "grpc_use_tls", "name"},
        set(),
    ),
    "task": (
        {"driver", "leader", "user", "kill_signal", "kill_timeout", "shutdown_delay"},
        {"config", "env", "template", "resources", "restart", "volume_mount", "logs", "meta"},
    ),
    "config": (_MAP, set()),  # the driver's options
    "env": (_MAP, set()),
    "template": (
        {"data", "source", "destination", "change_mode", "change_signal", "perms", "uid", "gid"},
        {"wait"},
    ),
    "resources": ({"cpu", "cores", "memory", "memory_max"}, {"device"}),
    "device": ({"count"}, {"constraint", "affinity"}),
    "volume_mount": ({"volume", "destination", "read_only", "propagation_mode"}, set()),
}  # fmt: skip
_LABELLED = {"variable", "job", "group", "port", "volume", "task", "device"}


@dataclass(frozen=True, slots=True)
class Block:
    """A block with its attributes and the blocks inside it."""

    kind: str
    label: str
    attributes: dict[str, Any]
    blocks: tuple["Block", ...]

    def inside(self, kind: str) -> tuple["Block", ...]:
        """The blocks of one kind, at any depth."""
        found = [block for block in self.blocks if block.kind == kind]
        for block in self.blocks:
            found.extend(block.inside(kind))
        return tuple(found)


def read(path: Path) -> Block:
    """The file as a block without a name.

    Raises:
        ValueError: it is not HCL 2.
    """
    return _block("", "", _load(path))


def read_labelled(path: Path) -> tuple[tuple[str, str, dict[str, Any]], ...]:
    """Kind, label and attributes of each block of a file in which every block has one label.

    Raises:
        ValueError: it is not HCL 2, or has something else in it.
    """
    with_label = []
    for kind, items in _load(path).items():
        if kind.startswith("__"):
            continue
        if not isinstance(items, list) or not all(_has_label(item) for item in items):
            raise ValueError(f"{kind}: expected a block with one label")
        for item in items:
            ((label, body),) = item.items()
            with_label.append((kind, _plain(label), _block(kind, "", body).attributes))
    return tuple(with_label)


def unknown_keys(block: Block, where: str = "") -> Iterator[str]:
    """A message for each key that Nomad would reject."""
    attributes, blocks = _KNOWN.get(block.kind, (set(), set()))
    if block.kind in {"config", "env", "meta"}:
        return
    for name in sorted(block.attributes.keys() - attributes):
        yield f"{where}{name}: expected one of {', '.join(sorted(attributes | blocks))}"
    for inner in block.blocks:
        place = f"{where}{inner.kind} {inner.label}".rstrip() + " > "
        if inner.kind in blocks:
            yield from unknown_keys(inner, place)
        else:
            yield f"{where}{inner.kind}: expected one of {', '.join(sorted(attributes | blocks))}"


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            return dict(hcl2.load(file))
    except Exception as error:  # the parser raises many kinds
        raise ValueError(f"expected HCL 2: {error}") from error


def _has_label(item: object) -> bool:
    return isinstance(item, dict) and len(item) == 1 and "__is_block__" not in item


def _block(kind: str, label: str, raw: dict[str, Any]) -> Block:
    attributes: dict[str, Any] = {}
    blocks: list[Block] = []
    for key, value in raw.items():
        if key.startswith("__"):
            continue
        if isinstance(value, list) and value and all(_is_block(item, key) for item in value):
            blocks.extend(_labelled(key, item) for item in value)
        else:
            attributes[key] = _plain(value)
    return Block(kind, label, attributes, tuple(blocks))


def _is_block(item: object, kind: str) -> bool:
    return isinstance(item, dict) and (kind in _LABELLED or "__is_block__" in item)


def _labelled(kind: str, item: dict[str, Any]) -> Block:
    if kind not in _LABELLED:
        return _block(kind, "", item)
    ((label, body),) = item.items()
    return _block(kind, _plain(label), body)


def _plain(value: Any) -> Any:
    """Values without the quotes and heredoc markers that the parser keeps."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, str) or not (value.startswith('"') and value.endswith('"')):
        return value
    text = value[1:-1]
    if not text.startswith("<<-"):
        return text.replace('\\"', '"')
    marker, _, rest = text[3:].partition("\n")
    return textwrap.dedent(rest.rstrip().removesuffix(marker))
