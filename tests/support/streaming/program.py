"""The program behind `consul` in this folder, for CONSUL_BIN; it execs the real Consul."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sidecar.local.programs.parts import find

_HOST, _PORT = "127.0.0.1", 8500  # Consul's defaults


def listener(arguments: Sequence[str]) -> str:
    """The host:port at which an agent with these arguments and JSON files would listen."""
    host, port = _HOST, _PORT
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-config-file", action="append", type=Path, default=[])
    for file in parser.parse_known_args(arguments)[0].config_file:
        if file.suffix == ".json":
            settings = json.loads(file.read_text())
            host = settings.get("client_addr", host)
            port = settings.get("ports", {}).get("http", port)
    return f"{host}:{port}"


def main(arguments: Sequence[str]) -> None:
    """Exec Consul; for an agent, first start a proxy in the same process group."""
    environ = {name: value for name, value in os.environ.items() if name != "CONSUL_BIN"}
    consul = str(find("consul", environ))
    own: tuple[str, ...] = ()
    if arguments[:1] == ["agent"]:
        front = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.support.streaming.front"),
                *(f"--agent={os.getpid()}", f"--listen={listener(arguments)}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert front.stdout is not None
        port = front.stdout.readline().strip()
        if not port:
            sys.exit("the proxy before Consul has not started")
        own = (f"-http-port={port}",)
    os.execv(consul, [consul, *arguments, *own])  # noqa: S606 -- without a shell


if __name__ == "__main__":
    main(sys.argv[1:])
