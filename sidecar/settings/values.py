"""The types of values in settings. Durations are in seconds once they are read."""

import re
import socket
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from sidecar.runtime import addresses
from sidecar.runtime.addresses import split_address, split_advertised

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_LONGEST = 8760 * 3600.0  # seconds, a year; timers of Envoy and Consul overflow far above


def parse_duration(value: object) -> float:
    """Seconds from a number, or from text such as `500ms`, `1.5s`, `2m`, `1h`, `7d`.

    Raises:
        ValueError: it is neither, or more than a year.
    """
    seconds: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)\s*", value)
        seconds = float(match[1]) * _UNITS[match[2]] if match else None
    if seconds is None:
        raise ValueError('expected a duration in ms, s, m, h or d, such as "500ms" or "2m"')
    # Compared before the conversion: an int may exceed all floats.
    if not abs(seconds) <= _LONGEST:
        raise ValueError("expected a duration of at most 8760h")
    return float(seconds)


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("expected a duration above zero")
    return seconds


def _no_boolean(value: object) -> object:
    """Refuse booleans, which Python treats as 0 and 1."""
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def matching(pattern: str, what: str) -> AfterValidator:
    """A validator for text that matches the whole pattern; errors say `expected {what}`."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"expected {what}")
        return text

    return AfterValidator(check)


def endpoint_address(address: str) -> str:
    """The address of an endpoint in the form for Envoy and Consul.

    Raises:
        ValueError: Envoy does not accept it; it would be left out of Envoy's configuration.
    """
    if (found := addresses.unicast_address(address)) is None or addresses.needs_scope(found):
        raise ValueError("expected the IP address of one host, at which Envoys reach it")
    return found


def name(text: str) -> str:
    """The name of a service or instance.

    Raises:
        ValueError: it is not a valid name.
    """
    # Valid in Consul as a service name with a usable DNS name, and in a KV key.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", text):
        wanted = "a name of up to 63 letters, digits and . _ - that begins with a letter or digit"
        raise ValueError(f"expected {wanted}")
    return text


def _advertised(value: str) -> str:
    try:
        split_advertised(value, 1)
    except ValueError:
        raise ValueError("expected the host or host:port that others dial") from None
    return value


def _address(address: str) -> str:
    split_address(address)
    return address


def _ip_and_port(address: str) -> str:
    if not addresses.is_ip(split_address(address)[0]):
        raise ValueError("expected an IP address and a port: Envoy listens on no name")
    return address


Duration = Annotated[float, BeforeValidator(parse_duration), AfterValidator(_positive)]
Whole = Annotated[int, BeforeValidator(_no_boolean)]
Number = Annotated[float, BeforeValidator(_no_boolean), Field(allow_inf_nan=False)]
Address = Annotated[str, AfterValidator(_address)]
ListenedByEnvoy = Annotated[str, AfterValidator(_ip_and_port)]
Advertised = Annotated[str, AfterValidator(_advertised)]
Name = Annotated[str, AfterValidator(name)]
# The id of a service in Consul; it is part of no DNS name and no path. Not one that begins like
# Nomad's own, `_nomad-`: Nomad deregisters those that it did not register itself.
Id = Annotated[
    str,
    matching(
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}",
        "an id of up to 255 letters, digits and . _ - that begins with a letter or digit",
    ),
]
MetaKey = Annotated[
    str, matching(r"[A-Za-z0-9_-]{1,128}", "a key of up to 128 letters, digits and _ -")
]
MetaValue = Annotated[str, Field(max_length=512)]
Tag = Annotated[str, Field(min_length=1, max_length=128)]


def default_id(service: str) -> str:
    """An instance id made from a service name and this machine's hostname."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"{service}-{socket.gethostname()}")


class Table(BaseModel):
    """A table of the TOML file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
