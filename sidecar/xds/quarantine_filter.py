"""The filter by which Envoy holds back requests that went down with two instances.

The script beside this module says what it does; docs/decisions/0034 why it does it there.
"""

from collections.abc import Collection
from pathlib import Path

# Imported for their types: they are named only in `@type`.
from envoy.extensions.filters.http.header_mutation.v3 import (
    header_mutation_pb2 as _mutation,  # noqa: F401
)
from envoy.extensions.filters.http.lua.v3 import lua_pb2 as _lua  # noqa: F401
from envoy.extensions.filters.http.upstream_codec.v3 import (
    upstream_codec_pb2 as _codec,  # noqa: F401
)

from sidecar.xds.tables import Table, named, typed

# The control plane's cluster in envoy/bootstrap.yaml.
PLANE = "control_plane"
# Each attempt adds the instance that it goes to; nobody outside is believed about it.
TRIED = "x-triton-sidecar-tried"
# By which the script tells Envoy that an answer is not to be followed by another attempt.
FINAL = "x-envoy-ratelimited"
# Attempts more than the policy allows, all of which have to be granted. Envoy picks an instance
# before it asks, and may pick those that are down until it hears of that.
FURTHER = 4
_LUA = "envoy.filters.http.lua"
_FILE = Path(__file__).with_name("quarantine.lua")
_SCRIPT = _FILE.read_text(encoding="utf-8").replace("@PLANE@", PLANE)


def http_filters() -> list[Table]:
    """The filters of a cluster, through which each attempt goes."""
    noted = {
        "append": {
            "header": {"key": TRIED, "value": "%UPSTREAM_HOST%"},
            "append_action": "APPEND_IF_EXISTS_OR_ADD",
        }
    }
    mutation = typed(
        "extensions.filters.http.header_mutation.v3.HeaderMutation",
        {"mutations": {"request_mutations": [noted]}},
    )
    lua = typed(
        "extensions.filters.http.lua.v3.Lua",
        {"default_source_code": {"inline_string": _SCRIPT}, "stat_prefix": "quarantine"},
    )
    codec = typed("extensions.filters.http.upstream_codec.v3.UpstreamCodec", {})
    return [
        named("envoy.filters.http.header_mutation", mutation),
        named(_LUA, lua),
        named("envoy.filters.http.upstream_codec", codec),
    ]


def metadata(num_retries: int, suspects: Collection[str]) -> Table:
    """What a route says to the script.

    Args:
        num_retries: how often a request may be sent again that was answered with an error.
        suspects: the fingerprints to look out for.
    """
    found: Table = {"num_retries": num_retries}
    if suspects:
        found["suspects"] = dict.fromkeys(sorted(suspects), True)
    return {"filter_metadata": {_LUA: found}}
