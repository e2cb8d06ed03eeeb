"""The ACL token for requests to Consul: its file is reread, and never waited for long.

Acts: asyncio.
"""

import asyncio
from collections.abc import Callable

from sidecar.runtime.errors import ConfigError
from sidecar.runtime.threads import in_daemon_thread

# Seconds that a request waits for the file. A network mount may answer late, or never.
_PATIENCE = 0.5


class Token:
    """The newest token that could be read.

    The file is read for each request, so that a rotated token is picked up, and in a separate
    thread: a hung disk must stop neither the event loop nor the exit of the process.
    """

    def __init__(
        self, read: Callable[[], str | None], failed: Callable[[ConfigError], None]
    ) -> None:
        """`read` returns the token; `failed` is called with each of its errors."""
        self._read = read
        self._failed = failed
        self._last: str | None = None
        self._reading: asyncio.Future[str | None] | None = None  # one at a time

    async def newest(self) -> str | None:
        """The token; while the file cannot be read, the last one.

        Raises:
            ConfigError: it has never been read. Without a token Consul would answer as to an
                anonymous client, with empty lists.
        """
        if self._reading is None:
            self._reading = in_daemon_thread(self._read, "consul token")
        reading = self._reading
        await asyncio.wait((reading,), timeout=None if self._last is None else _PATIENCE)
        if not reading.done():
            self._failed(ConfigError("consul.token_file: reading it takes long"))
            return self._last
        if reading is self._reading:
            self._reading = None
        try:
            self._last = reading.result()
        except ConfigError as error:
            if self._last is None:
                raise
            self._failed(error)
        return self._last
