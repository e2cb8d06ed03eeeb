"""Child processes that hold a namespace, a mount or shared memory for as long as they run.

Each ends when its standard input is closed, at the latest when this process ends.

Acts: os, subprocess.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sidecar.runtime.errors import Unavailable

_PATIENCE = 5.0  # seconds to end by itself


class Holder:
    """A running process, which has what it holds.

    Args:
        command: it gets what is to be held, and becomes `cat`.
        cwd: its working directory; None for this process's.
        env: its environment; None for this process's.

    Raises:
        Unavailable: it did not become `cat`; the message is what it complained about.
    """

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(str(error)) from error
        if not self._echoes():
            raise Unavailable(self.end() or "it ended without a word")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def end(self) -> str:
        """End it; gives what it complained about."""
        try:
            _, complaint = self._process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, complaint = self._process.communicate()
        return complaint.decode(errors="replace").strip()

    def _echoes(self) -> bool:
        """Whether `cat` runs."""
        if not (self._process.stdin and self._process.stdout):
            return False
        with suppress(BrokenPipeError):
            os.write(self._process.stdin.fileno(), b"\n")
        return self._process.stdout.readline() == b"\n"
