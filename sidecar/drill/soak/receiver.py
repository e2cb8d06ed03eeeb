"""A receiver of notifications, in a namespace of the cluster: it keeps whatever is posted to it.

    python -m sidecar.drill.soak.receiver FILE      # listens on PORT, and writes a line per request

Acts: aiohttp, asyncio, subprocess.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

from sidecar.drill.cluster.layout import EDGE, EDGE_ADDRESS
from sidecar.drill.cluster.parent import parent_ended
from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.soak.notifications import ALERTS, DOCUMENTS, Received

_PORT = 9095
# What the sidecars' settings say about it.
SETTINGS: Mapping[str, object] = {
    "documents": {"url": f"http://{EDGE_ADDRESS}:{_PORT}{DOCUMENTS}", "kind": "json"},
    "alerts": {"url": f"http://{EDGE_ADDRESS}:{_PORT}{ALERTS}", "kind": "alertmanager"},
}


@contextmanager
def receiver(stage: ClusterStage, file: Path) -> Iterator[None]:
    """Receive the cluster's notifications into a file while the context lasts."""
    command = (*stage.namespaces.enter(EDGE), sys.executable, "-m", __name__, str(file))
    with stage.log("receiver").open("ab") as log:
        process = subprocess.Popen(
            command,
            env=dict(stage.layout.parts[0][1].env),
            stdin=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def received(file: Path) -> tuple[Received, ...]:
    """What was received so far, in the order of time; nothing if the receiver never began."""
    try:
        whole, _, _ = file.read_bytes().rpartition(b"\n")
    except FileNotFoundError:
        return ()
    lines = map(json.loads, whole.splitlines())
    return tuple(Received(line["path"], line["body"]) for line in lines)


async def _main(file: Path) -> None:
    with file.open("a", buffering=1) as kept:

        async def keep(request: web.Request) -> web.Response:
            body = (await request.read()).decode(errors="replace")
            print(json.dumps({"path": request.path, "body": body}), file=kept)
            return web.Response()

        application = web.Application()
        application.router.add_post("/{path:.*}", keep)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", _PORT).start()
        await parent_ended()
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
