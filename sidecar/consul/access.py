"""Access to this machine's Consul agent: its address, its token, its certificates.

Acts: urllib.
"""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from sidecar.runtime import credentials


@dataclass(frozen=True, slots=True)
class ConsulAccess:
    """`address` is `host:port` or a URL, `timeout` is in seconds; at most one token is set."""

    address: str = "http://127.0.0.1:8500"
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    verify: bool = True
    timeout: float = 5.0

    @property
    def url(self) -> str:
        """Base URL of the HTTP API, without a trailing slash."""
        address = self.address.rstrip("/")
        return address if "://" in address else f"http://{address}"

    @property
    def is_local(self) -> bool:
        """Whether the address is this machine's; names other than localhost are not resolved."""
        host = urlsplit(self.url).hostname or ""
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def check(self) -> None:
        """Find mistakes now instead of at the first request.

        Raises:
            ConfigError: a file of the token or of TLS cannot be used.
        """
        self.read_token()
        if self.url.startswith("https:"):
            credentials.tls("consul", self.ca_file, self.cert_file, self.key_file)

    def read_token(self) -> str | None:
        """The ACL token; its file is reread at each call.

        Raises:
            ConfigError: the file cannot be read, or is empty.
        """
        return credentials.resolve_token(self.token, self.token_file, "consul.token_file")
