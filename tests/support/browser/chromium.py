"""A headless Chromium that shows the files of one folder, driven through its DevTools protocol.

It runs in namespaces of its own: it has no network, its profile is in memory, and when its first
process is killed, all that it started ends, and its mounts are gone. It needs util-linux, and root
or unprivileged user namespaces.
"""

import base64
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.support.browser import root

_PATIENCE = 60.0  # seconds for a whole test
_OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--remote-debugging-pipe", "--user-data-dir=/tmp/profile", "--force-color-profile=srgb"),
)
# The protocol is on descriptors 3 and 4. Standard error is a file of ours.
_START = f"""
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/tmp"
mount --bind "$2" "$1{root.SITE}"
chroot=$(command -v chroot || echo /usr/sbin/chroot)
exec env -i HOME=/tmp LANG=C.UTF-8 "$chroot" "$1" {root.PROGRAM} {" ".join(_OPTIONS)} \\
  3<&0 4>&1 </dev/null >&2
"""


@dataclass
class Tab:
    """One page. `requested` are the addresses that it asked for, its own among them."""

    browser: "_Pipe"
    session: str
    requested: list[str] = field(default_factory=list)

    def open(self, name: str, width: int, height: int = 800) -> None:
        """Load a file of the folder on a screen of that many pixels."""
        small = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 640}
        self._call("Page.enable")
        self._call("Network.enable")
        self._call("Emulation.setDeviceMetricsOverride", **small)
        self.browser.events.clear()
        self._call("Page.navigate", url=f"file://{root.SITE / name}")
        while not any(each["method"] == "Page.loadEventFired" for each in self.browser.events):
            self.browser.receive()
        sent = (e for e in self.browser.events if e["method"] == "Network.requestWillBeSent")
        self.requested = [each["params"]["request"]["url"] for each in sent]

    def run(self, script: str) -> Any:
        """The value of an expression in the page, as JSON has it."""
        done = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def screenshot(self) -> bytes:
        """The whole page as a PNG."""
        whole = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(whole["data"])

    def printed(self) -> bytes:
        """The page as a PDF, on the paper that its style asks for."""
        done = self._call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        return base64.b64decode(done["data"])

    def print_media(self, media: str) -> None:
        """Use the style of `print`, or with an empty text that of screens."""
        self._call("Emulation.setEmulatedMedia", media=media)

    def _call(self, method: str, **parameters: object) -> dict[str, Any]:
        return self.browser.call(method, self.session, **parameters)


@contextmanager
def showing(folder: Path) -> Iterator[Tab]:
    """A tab of a new Chromium that can read the files in `folder`, and nothing else."""
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    apart = ["unshare", *user, "--mount", "--pid", "--net", "--fork", "--kill-child"]
    command = [*apart, "sh", "-euc", _START, "sh", str(root.provide()), str(folder)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
        )
        with process:
            try:
                yield _first_tab(_Pipe(process, said))
            finally:
                process.kill()


def _first_tab(browser: "_Pipe") -> Tab:
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
    return Tab(browser, attached["sessionId"])


class _Pipe:
    """The DevTools protocol: JSON texts that end with a zero byte."""

    def __init__(self, process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
        self._process, self._said = process, said
        self._deadline = time.monotonic() + _PATIENCE
        self._number = 0
        self._rest = b""
        self._answers: dict[int, Mapping[str, Any]] = {}
        self.events: list[Mapping[str, Any]] = []

    def call(self, method: str, session: str = "", **parameters: object) -> dict[str, Any]:
        """Call a method, of the browser or of a tab's session, and wait for its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        while (answer := self._answers.pop(self._number, None)) is None:
            self.receive()
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def receive(self) -> None:
        """Wait for a message, and store it."""
        while b"\0" not in self._rest:
            self._rest += self._read()
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        if "id" in message:
            self._answers[message["id"]] = message
        else:
            self.events.append(message)

    def _read(self) -> bytes:
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        if not select.select([output], [], [], max(0.0, self._deadline - time.monotonic()))[0]:
            raise AssertionError(f"Chromium did not answer\n{self._complaint()}")
        read = os.read(output, 1 << 20)
        if not read:
            raise AssertionError(f"Chromium ended\n{self._complaint()}")
        return read

    def _complaint(self) -> str:
        self._said.seek(0)
        return self._said.read()[-4000:].decode(errors="replace")
