"""The configuration that all local Consul agents share, by version. Pure."""

from typing import Any

Version = tuple[int, int]  # major and minor
# All listeners of an agent. Those not requested are closed: several agents share a machine, and
# each version opens different ports by default.
_LISTENERS = ("http", "https", "grpc", "dns", "serf_lan", "serf_wan", "server")
_CLOSED = -1
# As in consul/client.hcl.
_CONNECTIONS = 2000


def settings(of: Version, **ports: int) -> dict[str, Any]:
    """Settings for an agent of a version, which listens on these ports only, and calls no host."""
    listeners = dict.fromkeys(_LISTENERS, _CLOSED) | ports
    if of >= (1, 14):  # older ones reject the key, newer ones would listen on 8503
        listeners["grpc_tls"] = _CLOSED
    return {
        "ports": listeners,
        "limits": {"http_max_conns_per_client": _CONNECTIONS},
        # The delay, by default 5 min, for syncing a check's output when its status stays the same.
        "check_update_interval": "0s",
        "disable_update_check": True,
    }
