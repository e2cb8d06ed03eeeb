"""What every Consul agent that is started here has in common, whatever its version."""

from typing import Any

Version = tuple[int, int]  # major and minor
# Everything that an agent can listen on. What is not asked for is closed: several agents share a
# machine, and each version opens other ports by default.
_LISTENERS = ("http", "https", "grpc", "dns", "serf_lan", "serf_wan", "server")
_CLOSED = -1
# As in consul/client.hcl.
_CONNECTIONS = 2000


def settings(of: Version, **ports: int) -> dict[str, Any]:
    """Settings for an agent of a version: it listens on these ports only, and calls nobody."""
    listeners = dict.fromkeys(_LISTENERS, _CLOSED) | ports
    if of >= (1, 14):  # older ones refuse the key, newer ones would listen on 8503
        listeners["grpc_tls"] = _CLOSED
    return {
        "ports": listeners,
        "limits": {"http_max_conns_per_client": _CONNECTIONS},
        # Default 5 min: how late a check's output is shown when its status stays the same.
        "check_update_interval": "0s",
        "disable_update_check": True,
    }
