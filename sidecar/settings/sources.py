"""Where settings come from, which source wins, and what is said about mistakes.

The first source that names a key wins: flag, environment (`TRITON_SIDECAR_<TABLE>__<KEY>`), TOML
file with the files of canaries that it names, and for Consul what its own tools read from
`CONSUL_*`.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from sidecar.errors import ConfigError
from sidecar.settings import files

ENV_PREFIX = "TRITON_SIDECAR_"
S = TypeVar("S", bound=BaseSettings)


def load(cls: type[S], path: Path | None, flags: Mapping[str, object], known: Iterable[str]) -> S:
    """Settings from a TOML file, the environment and flags (`{"log.level": …}`).

    `known` names all tables there are: a variable may name one that `cls` has no use for.

    Raises:
        ConfigError: with every mistake at once, each with its source, key and what was expected.
    """
    sources: list[files.Source] = [
        ("flag", _nested(flags)),
        ("environment", _environment(cls, known)),
        (str(path), _toml(path)),
    ]
    if "canary" in cls.model_fields:
        sources += _canaries(path, sources)
    explicit = _merge(values for _, values in sources).get("consul", {})
    if isinstance(explicit, dict):
        sources.append(("environment (CONSUL_*)", {"consul": consul_environment(explicit)}))
    try:
        return cls(**_merge(values for _, values in sources))
    except ValidationError as error:
        found = error.errors(include_url=False)
        # A list whose every item is wrong is reported as too short as well: once is enough.
        outer = {item["loc"][:depth] for item in found for depth in range(len(item["loc"]))}
        mistakes = [
            _explain(cls, item, sources)
            for item in found
            if item["type"] != "too_short" or item["loc"] not in outer
        ]
        raise ConfigError("\n".join(mistakes)) from None


def _toml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    if not path.is_file():
        raise ConfigError(f"{path}: expected a configuration file in TOML, found none")
    return files.anchor(files.read(path), path.parent)


def _canaries(path: Path | None, sources: Sequence[files.Source]) -> list[files.Source]:
    """The files that `triton.canaries` names; only what is in a file may not be described twice."""
    key = ("triton", "canaries")
    naming = next(((name, tree) for name, tree in sources if _names(tree, key)), None)
    if naming is None:
        return []
    origin, tree = naming
    folder = path.parent if path else Path()
    return files.canaries(tree["triton"]["canaries"], folder, origin, sources[-1:])


def _environment(cls: type[BaseSettings], known: Iterable[str]) -> dict[str, Any]:
    for variable in sorted(os.environ):
        table, nested, _ = variable.removeprefix(ENV_PREFIX).partition("__")
        if variable.startswith(ENV_PREFIX) and nested and table.lower() not in known:
            raise ConfigError(
                f"environment: {variable}: expected {ENV_PREFIX}<TABLE>__<KEY> with TABLE one of "
                + ", ".join(sorted(known)).upper()
            )
    try:
        return EnvSettingsSource(cls)()
    except SettingsError as error:
        raise ConfigError(f"environment: {error}") from error


def consul_environment(explicit: Mapping[str, object]) -> dict[str, object]:
    """What `CONSUL_*` variables say, leaving out what the explicit `[consul]` table decides."""
    env = os.environ
    found: dict[str, object] = {}
    if address := env.get("CONSUL_HTTP_ADDR"):
        over_tls = env.get("CONSUL_HTTP_SSL", "").lower() in {"1", "true"}
        bare = "://" not in address
        found["address"] = f"https://{address}" if over_tls and bare else address
    if not explicit.keys() & {"token", "token_file"}:
        # Consul's own tools prefer the token to the file.
        if token := env.get("CONSUL_HTTP_TOKEN"):
            found["token"] = token
        elif token_file := env.get("CONSUL_HTTP_TOKEN_FILE"):
            found["token_file"] = token_file
    if verify := env.get("CONSUL_HTTP_SSL_VERIFY"):
        found["verify"] = verify
    if ca_file := env.get("CONSUL_CACERT"):
        found["ca_file"] = ca_file
    if not explicit.keys() & {"cert_file", "key_file"}:
        pair = {
            "cert_file": env.get("CONSUL_CLIENT_CERT"),
            "key_file": env.get("CONSUL_CLIENT_KEY"),
        }
        found |= {key: value for key, value in pair.items() if value}
    return {key: value for key, value in found.items() if key not in explicit}


def _nested(flags: Mapping[str, object]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for dotted, value in flags.items():
        if value is not None:
            *tables, key = dotted.split(".")
            table = tree
            for name in tables:
                table = table.setdefault(name, {})
                if not isinstance(table, dict):
                    raise ConfigError(f"flag: {dotted}: expected no value for {name} itself")
            table[key] = value
    return tree


def _merge(trees: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for tree in trees:
        for key, value in tree.items():
            if key not in merged:
                merged[key] = value
            elif isinstance(merged[key], Mapping) and isinstance(value, Mapping):
                merged[key] = _merge([merged[key], value])
    return merged


def _explain(
    cls: type[BaseModel],
    item: ErrorDetails,
    sources: Sequence[tuple[str, Mapping[str, Any]]],
) -> str:
    """One line: where, which key, what was expected, and what was found unless it is secret."""
    location = item["loc"]
    origin = next((name for name, tree in sources if _names(tree, location)), None)
    where = origin or next((name for name, _ in sources if name.endswith(".toml")), "settings")
    key = ".".join(str(part) for part in location)
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = "unknown key" + _alternatives(cls, location)
    elif item["type"] == "missing":
        message = "missing; expected a value"
    elif isinstance(item["input"], str | int | float) and "token" not in key:
        message += f", found {item['input']!r}"
    separator = "." if key and re.match(r"[a-z_.0-9]+: ", message) else ": "
    return f"{where}: {key}{separator}{message}" if key else f"{where}: {message}"


def _names(tree: object, location: Sequence[int | str]) -> bool:
    for part in location:
        try:
            tree = tree[part]  # type: ignore[index]  # whatever cannot be indexed raises
        except (TypeError, LookupError):
            return False
    return bool(location)


def _alternatives(cls: type[BaseModel], location: Sequence[int | str]) -> str:
    """The keys that are allowed where an unknown one stands, or nothing where that is open."""
    model: type[BaseModel] = cls
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type):
            return ""
        if not issubclass(field.annotation, BaseModel):
            return ""
        model = field.annotation
    return "; expected one of " + ", ".join(sorted(model.model_fields))
