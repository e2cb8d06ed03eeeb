"""Host addresses: which of them denote one host, and how they are written. Pure."""

import ipaddress
import re

WILDCARDS = frozenset({"0.0.0.0", "::"})  # valid to listen on, not to dial
_LONGEST = 253  # characters of a DNS name
_BROADCAST = "255.255.255.255"


def unicast_address(text: str) -> str | None:
    """A unicast IP address in the form that Envoy accepts; None for anything else.

    Envoy accepts neither scopes (`fe80::1%eth0`) nor names, and would reject the other endpoints
    along with such an address.
    """
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    inner = getattr(found, "ipv4_mapped", None) or found
    scoped = getattr(found, "scope_id", None)
    return None if scoped or inner.is_unspecified or _is_group(inner) else str(found)


def needs_scope(address: str) -> bool:
    """Whether an IP address is only reachable with a scope: a link-local one of IPv6."""
    found = ipaddress.ip_address(address)
    return found.version == 6 and found.is_link_local


def is_host(text: str) -> bool:
    """Whether it is a host name, or an IP address that is neither multicast nor broadcast.

    A wildcard is a host: to listen on, and, when dialled, this machine.
    """
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        # Digits and dots alone are a malformed address: no name is written like that.
        named = re.fullmatch(r"[^\s:/%@]+", text) and not re.fullmatch(r"[0-9.]+", text)
        return bool(named) and len(text) <= _LONGEST
    return not (getattr(found, "scope_id", None) or _is_group(found))


def is_ip(text: str) -> bool:
    """Whether it is an IP address of any kind."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`; an IPv6 host is in brackets.

    Raises:
        ValueError: it has a different form.
    """
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\s/]+):([0-9]{1,5})", address)
    host = match[1].strip("[]") if match else ""
    if not match or not 0 < int(match[2]) < 65536 or not is_host(host):
        raise ValueError("expected host:port")
    return host, int(match[2])


def join_address(host: str, port: int) -> str:
    """`host:port`, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_advertised(value: str, port: int) -> tuple[str, int]:
    """Host and port of an advertised address: `host:port`, or a host with the default `port`.

    Raises:
        ValueError: it is neither, or an address that cannot be dialled.
    """
    try:
        host, port = split_address(value)
    except ValueError:
        host = value.strip("[]")
    usable = unicast_address(host) if is_ip(host) else is_host(host)
    if not re.fullmatch(r"[0-9A-Za-z.:_-]+", host) or not usable:
        raise ValueError("expected the host or host:port that others dial")
    return host, port


def _is_group(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.is_multicast or str(address) == _BROADCAST
