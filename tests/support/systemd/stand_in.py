#!/usr/bin/python3 -SE
"""The stand-in that units start instead of a program; its name and first argument say which.

It appends its events to /dev/shm/events/log, and is controlled by files there:
`<program>.exit`, an exit status to start with; `<program>.drain`, how many seconds its stop takes;
`<program>.unit`, what to restart.
"""

import os
import signal
import socket
import sys
import time

EVENTS = "/dev/shm/events"


def role() -> str:
    program = sys.argv[0].rpartition("/")[2]
    if program == "triton-sidecar":
        return "plane" if sys.argv[1:2] == ["xds"] else "sidecar"
    return "triton" if program == "tritonserver" else program


def instance() -> str:
    """The part of its unit's name after `@`, or `one`, from its two arguments."""
    if role() not in ("triton", "sidecar"):
        return "edge"
    words = " ".join(sys.argv)
    for before, after in (("/triton-sidecar/", ".toml"), ("shm-region-prefix-name=triton_", "_")):
        name, found, _ = words.partition(before)[2].partition(after)
        if found and name not in ("sidecar", "main"):
            return name
    return "one"


WHO = f"{role()}.{instance()}"


def setting(what: str) -> str:
    try:
        with open(f"{EVENTS}/{WHO}.{what}") as file:  # noqa: PTH123  # a minimal Python
            return file.read().strip()
    except FileNotFoundError:
        return ""


def note(event: str) -> None:
    with open(f"{EVENTS}/log", "a") as file:  # noqa: PTH123
        file.write(f"{WHO} {event}\n")


def opens(device: str) -> bool:
    try:
        os.close(os.open(f"/dev/{device}", os.O_RDONLY))
    except OSError:
        return False
    return True


def notify(message: str) -> None:
    if address := os.environ.get("NOTIFY_SOCKET"):
        address = f"\0{address[1:]}" if address.startswith("@") else address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.sendto(message.encode(), address)


def stop(number: int, frame: object) -> None:
    """Exit with 0; the sidecar after a drain, for which it extends systemd's timeout."""
    note("stops")
    ends = time.monotonic() + float(setting("drain") or 0.1)
    while time.monotonic() < ends:
        notify("STOPPING=1\nEXTEND_TIMEOUT_USEC=2000000")
        time.sleep(0.1)
    note("stopped")
    os._exit(0)


def recover(number: int, frame: object) -> None:
    """Restart the configured unit, as a sidecar with `recovery.action.kind = "systemd"` does."""
    sign = f"{os.environ['RUNTIME_DIRECTORY']}/recovering"
    os.close(os.open(sign, os.O_CREAT))
    for argv in (["kill", "--signal=SIGKILL", setting("unit")], ["restart", setting("unit")]):
        command = ["systemctl", "--no-ask-password", *argv]
        status = os.spawnv(os.P_WAIT, "/usr/bin/systemctl", command)  # noqa: S606
        note(f"{argv[0]}: {'done' if status == 0 else 'refused'}")
    os.unlink(sign)  # noqa: PTH108


def main() -> None:
    if status := setting("exit"):
        sys.exit(int(status))
    if "--check-config" in sys.argv:
        sys.exit()
    if sys.argv[1:3] == ["xds", "drain"]:
        note("has Envoy drain")
        time.sleep(0.5)
        note("has had Envoy drain")
        sys.exit()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR1, recover if role() == "sidecar" else lambda *_: os._exit(0))
    signal.signal(signal.SIGUSR2, lambda *_: os._exit(1))
    signal.signal(signal.SIGHUP, lambda *_: note("reloads"))
    signal.signal(signal.SIGINT, lambda *_: notify("WATCHDOG=trigger"))
    note(f"starts and opens {' '.join(filter(opens, ('nvidiactl', 'other')))}")
    notify("READY=1")
    while True:
        notify("WATCHDOG=1")
        time.sleep(1)


main()
