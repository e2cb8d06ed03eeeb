"""Checks the hosts in settings for `--check-config`; resolves names, never connects."""

import socket
from urllib.parse import urlsplit

from sidecar.runtime.addresses import is_ip, split_address, split_advertised
from sidecar.runtime.errors import ConfigError
from sidecar.settings import SidecarSettings, XdsSettings
from sidecar.settings.tables.recovery import NomadAction

# The name does not exist. Other errors are the resolver's and prove nothing.
_UNKNOWN = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


def check_sidecar(settings: SidecarSettings) -> None:
    """Check the hosts of a sidecar.

    Raises:
        ConfigError: a host's name does not exist; lists every mistake.
    """
    triton, listen = settings.triton, settings.listen
    found = {
        "consul.address": settings.consul.access.url,
        "triton.grpc": triton.grpc,
        "triton.metrics": triton.metrics,
        "listen.grpc": listen.grpc,
        "listen.metrics": listen.metrics,
        "listen.advertise": listen.advertise,
    }
    if isinstance(action := settings.recovery.action, NomadAction):
        found["recovery.action.address"] = action.address
    _refuse(found, {name: each.url.get_secret_value() for name, each in settings.notify.items()})


def check_xds(settings: XdsSettings) -> None:
    """Check the hosts of a control plane; errors as for `check_sidecar`."""
    xds = settings.xds
    found: dict[str, str | None] = {
        "consul.address": settings.consul.access.url,
        "xds.listen": xds.listen,
        "xds.metrics": xds.metrics,
        "xds.advertise": xds.advertise,
    }
    found |= {f"envoy.admin[{place}]": each for place, each in enumerate(settings.envoy.admin)}
    _refuse(found, {})


def _refuse(found: dict[str, str | None], secret: dict[str, str]) -> None:
    """Raise the mistakes. Addresses in `secret` are not shown, nor the host names in them."""
    mistakes = [
        f"{key}: expected a host that is known, found {address}: {why}"
        for key, address in found.items()
        if address and (why := _why(_host(address)))
    ]
    mistakes += [
        f"notify.{name}.url: expected a host that is known: {why}"
        for name, url in secret.items()
        if (why := _why(_host(url)))
    ]
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def _host(address: str) -> str:
    """The host of a URL, of `host:port`, or alone; empty if there is none."""
    if "://" in address or address.startswith("unix:"):
        return urlsplit(address).hostname or ""
    try:
        return split_address(address)[0]
    except ValueError:
        return split_advertised(address, 1)[0]


def _why(host: str) -> str:
    """Why there is no such host; empty if there is, or if that is unknown."""
    if not host or is_ip(host):
        return ""
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror as error:
        return error.strerror or str(error) if error.errno in _UNKNOWN else ""
    except UnicodeError:
        return "not the name of a host"
    except OSError:
        return ""
    return ""
