"""The kinds of values that settings are made of. Durations are seconds once they are read."""

import ipaddress
import math
import re
import socket
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def parse_duration(value: object) -> float:
    """Seconds from a number, or from text such as `500ms`, `1.5s`, `2m`, `1h`.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|)\s*", value)
        if match:
            return float(match[1]) * _UNITS[match[2]]
    raise ValueError('expected a duration such as "500ms", "1s" or "2m"')


def _positive(seconds: float) -> float:
    if not 0 < seconds < math.inf:
        raise ValueError("expected a duration above zero")
    return seconds


def ip_address(address: str) -> str:
    """An address as it is, if it is one.

    Raises:
        ValueError: it is not an IP address.
    """
    # Envoy takes endpoints by address; a name would be left out of its configuration.
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise ValueError("expected an IP address") from None
    return address


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`; an IPv6 host stands in brackets.

    Raises:
        ValueError: it has another form.
    """
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\s/]+):(\d{1,5})", address)
    if not match or not 0 < int(match[2]) < 65536:
        raise ValueError("expected host:port")
    return match[1].strip("[]"), int(match[2])


def join_address(host: str, port: int) -> str:
    """`host:port`, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(address: str) -> str:
    split_address(address)
    return address


Duration = Annotated[float, BeforeValidator(parse_duration), AfterValidator(_positive)]
Address = Annotated[str, AfterValidator(_address)]
# What Consul accepts in service names and ids without making their DNS names unusable.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
MetaKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
MetaValue = Annotated[str, Field(max_length=512)]
Tag = Annotated[str, Field(min_length=1, max_length=128)]


def default_id(service: str) -> str:
    """An id from a service name and this machine's name."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"{service}-{socket.gethostname()}")


class Table(BaseModel):
    """A table of the TOML file; unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
