"""Addresses of hosts: which of them stand for one host, and how they are written. Pure."""

import ipaddress
import re

WILDCARDS = frozenset({"0.0.0.0", "::"})  # where one listens, and nobody can be dialled
_LONGEST = 253  # characters of a name in DNS
_BROADCAST = "255.255.255.255"


def unicast_address(text: str) -> str | None:
    """An IP address at which others reach one host, as Envoy takes it; None if it is none.

    Envoy knows no scope (`fe80::1%eth0`) and no names, and would refuse the other endpoints
    together with it.
    """
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    inner = getattr(found, "ipv4_mapped", None) or found
    scoped = getattr(found, "scope_id", None)
    return None if scoped or inner.is_unspecified or _is_group(inner) else str(found)


def needs_scope(address: str) -> bool:
    """Whether an IP address is reached only with a scope: one of IPv6 that is link-local."""
    found = ipaddress.ip_address(address)
    return found.version == 6 and found.is_link_local


def is_host(text: str) -> bool:
    """Whether it is the name of a host, or an IP address that is not a group's.

    A wildcard is one: where one listens, and this machine where one dials.
    """
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        # What has digits and dots alone is an address with a mistake: no name ends so.
        named = re.fullmatch(r"[^\s:/%@]+", text) and not re.fullmatch(r"[0-9.]+", text)
        return bool(named) and len(text) <= _LONGEST
    return not (getattr(found, "scope_id", None) or _is_group(found))


def is_ip(text: str) -> bool:
    """Whether it is an IP address, of whatever kind."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`; an IPv6 host stands in brackets.

    Raises:
        ValueError: it has another form.
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
    """Host and port of what others dial: `host:port`, or a host alone, whose port is `port`.

    Raises:
        ValueError: it is neither, or an address at which nobody can be dialled.
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
