"""The sources of settings and their precedence.

The first source that has a key wins: flag, environment (`TRITON_SIDECAR_<TABLE>__<KEY>`), TOML file
with the canary files that it names, and for Consul the `CONSUL_*` variables of Consul's own tools.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from sidecar.runtime.errors import ConfigError
from sidecar.settings import files, mistakes

ENV_PREFIX = "TRITON_SIDECAR_"
S = TypeVar("S", bound=BaseSettings)


def load(cls: type[S], path: Path | None, flags: Mapping[str, object], known: Iterable[str]) -> S:
    """Settings from a TOML file, the environment and flags (`{"log.level": …}`).

    `known` names all tables: an environment variable may set one that `cls` does not have.

    Raises:
        ConfigError: lists every mistake, each with its source, key and what was expected.
    """
    sources = _all(cls, path, flags, known)
    given = _merge(values for _, values in sources)
    for key in given:
        if key.startswith("_"):  # pydantic-settings treats some of them as its own arguments
            message = mistakes.unknown(cls, [key], given)
            raise ConfigError(mistakes.line(mistakes.origin(sources, [key]), [key], message))
    try:
        return cls(**given)
    except ValidationError as error:
        lines = mistakes.describe(cls, error.errors(include_url=False), sources, given)
        raise ConfigError("\n".join(lines)) from None


def named(
    error: ConfigError,
    cls: type[BaseSettings],
    path: Path | None,
    flags: Mapping[str, object],
    known: Collection[str],
) -> ConfigError:
    """A mistake found when settings were used, with the source of its key prepended.

    A line that does not start with a key, because it already names a file, stays as it is.
    """
    try:
        sources = _all(cls, path, flags, known)
    except ConfigError:  # a file has changed since
        return error
    lines = []
    for line in str(error).splitlines():
        key = re.match(r"([a-z]+)\.[^\s:]+: ", line)
        if key and key[1] in known and not any(line.startswith(f"{name}: ") for name, _ in sources):
            line = f"{mistakes.origin(sources, key[0][:-2].split('.'))}: {line}"
        lines.append(line)
    return type(error)("\n".join(lines))


def _all(
    cls: type[BaseSettings],
    path: Path | None,
    flags: Mapping[str, object],
    known: Iterable[str],
) -> list[mistakes.Source]:
    """All sources in order of precedence."""
    sources: list[mistakes.Source] = [
        (mistakes.FLAG, _nested(flags)),
        (mistakes.ENVIRONMENT, _environment(cls, known)),
        (str(path or "settings"), _toml(path)),
    ]
    if "canary" in cls.model_fields:
        sources += _canaries(path, sources)
    explicit = _merge(values for _, values in sources).get("consul", {})
    if isinstance(explicit, dict):
        sources.append((mistakes.CONSULS, {"consul": consul_environment(explicit)}))
    return sources


def _toml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    return files.anchor(files.read(path), path.parent)


def _canaries(path: Path | None, sources: Sequence[mistakes.Source]) -> list[mistakes.Source]:
    """The files that `triton.canaries` names; two files must not describe the same model."""
    key = ("triton", "canaries")
    naming = ((name, mistakes.at(tree, key)) for name, tree in sources)
    origin, patterns = next((each for each in naming if each[1] is not None), ("", None))
    return files.canaries(patterns, path, origin, sources[-1:])


def _environment(cls: type[BaseSettings], known: Iterable[str]) -> dict[str, Any]:
    for variable in sorted(os.environ):
        table, nested, _ = variable.removeprefix(ENV_PREFIX).partition("__")
        if variable.startswith(ENV_PREFIX) and nested and table.lower() not in known:
            raise ConfigError(
                f"environment: {variable}: expected {ENV_PREFIX}<TABLE>__<KEY> with TABLE one of "
                + ", ".join(sorted(known)).upper()
            )
    source = EnvSettingsSource(cls)
    variables = source.env_vars
    for name, value in variables.items():
        source.env_vars = {name: value}  # one at a time: its errors do not name the variable
        try:
            source()
        except (SettingsError, RecursionError):
            wanted = "expected JSON, because lists and tables are written so"
            raise ConfigError(f"environment: {name.upper()}: {wanted}") from None
    source.env_vars = variables
    return source()


def consul_environment(explicit: Mapping[str, object]) -> dict[str, object]:
    """The values of `CONSUL_*` variables, except for keys that `[consul]` sets explicitly."""
    env = os.environ
    found: dict[str, object] = {}
    if address := env.get("CONSUL_HTTP_ADDR"):
        over_tls = env.get("CONSUL_HTTP_SSL", "").lower() in {"1", "true"}
        bare = "://" not in address
        found["address"] = f"https://{address}" if over_tls and bare else address
    if not explicit.keys() & {"token", "token_file"}:
        # Like Consul's own tools: the token takes precedence over the file.
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
