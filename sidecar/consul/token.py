"""The ACL token for each request to Consul: its file is followed, and never waited for long."""

import asyncio
from collections.abc import Callable

from sidecar.runtime.errors import ConfigError
from sidecar.runtime.threads import in_daemon_thread

# Seconds that a request waits for the file. A folder that is mounted from elsewhere may answer
# late, or never.
_PATIENCE = 0.5


class Token:
    """The newest token that could be read.

    The file is read for each request, so that a rotated one is followed, in a thread of its own: a
    disk that hangs must stop neither the event loop nor the end of the process.
    """

    def __init__(
        self, read: Callable[[], str | None], failed: Callable[[ConfigError], None]
    ) -> None:
        """`read` gives the token; `failed` is told each time that it cannot."""
        self._read = read
        self._failed = failed
        self._last: str | None = None
        self._reading: asyncio.Future[str | None] | None = None  # one at a time

    async def newest(self) -> str | None:
        """The token; while it cannot be read the last one goes on being used.

        Raises:
            ConfigError: it has never been read. Without one a request would be answered, but not
                as the one that it should be: to a stranger Consul's lists are empty.
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
