"""The process of a dead man's switch: it undoes a fault when its standard input ends, or in time.

It is run as a file, by `guard.py`, and imports the standard library alone, so that it starts fast
and needs nothing of a machine in trouble. Its first line of input is an order:

    {"within": 30.0, "thaw": [5, 6], "run": [["tc", "qdisc", "del", …]]}

`thaw` are inherited pidfds, which name their processes even after a pid is reused. It writes
`armed` as soon as the order is in force, and what it did as one line of JSON. SIGTERM, which
systemd sends to all processes of a unit, has it undo the fault at once.

Acts: os, select, signal, subprocess, time.
"""

import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence

ARMED = b"armed\n"
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_LOOK = 1.0  # seconds between looks at the clock, which counts a suspended machine's time too
_EACH = 10.0  # seconds that one command may take


def thaw(handles: Iterable[int]) -> list[str]:
    """Continue the processes of pidfds; returns why one could not be. A gone one is no failure."""
    failed = []
    for handle in handles:
        try:
            signal.pidfd_send_signal(handle, signal.SIGCONT)
        except ProcessLookupError:
            continue
        except OSError as error:
            failed.append(f"SIGCONT: {error.strerror}")
    return failed


def run(commands: Iterable[Sequence[str]]) -> list[str]:
    """Run each command, whatever becomes of the one before; returns why one failed."""
    failed = []
    for argv in commands:
        try:
            subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True,
                           timeout=_EACH)  # fmt: skip
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            failed.append(f"{argv[0] if argv else 'no command'}: {error}")
    return failed


def readable(within: float, *descriptors: int) -> set[int]:
    """Those that can be read, or have ended, as soon as there are some or `within` s are over."""
    looking = select.poll()  # select knows none from 1024 on
    for each in descriptors:
        looking.register(each, select.POLLIN)
    return {each for each, _ in looking.poll(math.ceil(within * 1000))}


def _line() -> bytes:
    """The first line of standard input; what follows it does not matter."""
    found = bytearray()
    while b"\n" not in found and (data := os.read(0, 65536)):
        found += data
    return bytes(found.partition(b"\n")[0])


def _wait(deadline: float, terminated: int) -> None:
    """Return when standard input ends, SIGTERM comes, or the time is over."""
    while (left := deadline - time.clock_gettime(_CLOCK)) > 0:
        ready = readable(min(left, _LOOK), 0, terminated)
        if terminated in ready or (0 in ready and not os.read(0, 65536)):
            return


def _say(text: bytes) -> None:
    try:
        os.write(1, text)
    except OSError:  # the reader is gone, which is what this process is for
        return


def main() -> int:
    """Wait, undo and report; the exit status is 1 if something could not be undone."""
    terminated, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    began = time.clock_gettime(_CLOCK)
    if not (order := _line()):
        return 1
    document = json.loads(order)
    _say(ARMED)
    _wait(began + document["within"], terminated)
    failed = [*thaw(document["thaw"]), *run(document["run"])]
    _say(json.dumps({"failed": failed}).encode() + b"\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
