"""A receiver of notifications, in a namespace of the cluster: it keeps whatever is posted to it.

    python -m sidecar.drill.soak.receiver FILE PORT     # writes a line for each request

Acts: aiohttp, asyncio.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from sidecar.drill.cluster.layout import EDGE, EDGE_ADDRESS
from sidecar.drill.cluster.parent import child, parent_ended
from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.record import Violation
from sidecar.drill.soak.notifications import ALERTS, DOCUMENTS, Received

_PORT = 9095
_START = 60.0  # seconds, on a busy machine
# What the sidecars' settings say about it.
SETTINGS: Mapping[str, object] = {
    "documents": {"url": f"http://{EDGE_ADDRESS}:{_PORT}{DOCUMENTS}", "kind": "json"},
    "alerts": {"url": f"http://{EDGE_ADDRESS}:{_PORT}{ALERTS}", "kind": "alertmanager"},
}


@dataclass(frozen=True, slots=True)
class Receiver:
    """A running receiver; it ends with its context, not before."""

    process: asyncio.subprocess.Process
    file: Path

    def received(self) -> tuple[Received, ...]:
        """What was received so far, in the order of time."""
        whole, _, _ = self.file.read_bytes().rpartition(b"\n")
        lines = map(json.loads, whole.splitlines())
        return tuple(Received(line["path"], line["body"]) for line in lines)

    def violations(self) -> Sequence[Violation]:
        """A receiver that has ended misses notifications, so nothing is proved about them."""
        status = self.process.returncode
        if status is None:
            return ()
        expected = "a receiver that runs to the end"
        return (Violation("lost_notifications", expected, f"it ended with status {status}"),)


@asynccontextmanager
async def receiver(stage: ClusterStage, file: Path) -> AsyncIterator[Receiver]:
    """Receive the cluster's notifications into a file while the context lasts.

    Raises:
        Unavailable: it does not start; its log says why.
    """
    command = (*stage.namespaces.enter(EDGE), sys.executable, "-m", __name__, str(file), str(_PORT))
    what = "the receiver of notifications, see receiver.log,"
    env = dict(stage.layout.parts[0][1].env)
    with stage.log("receiver").open("ab") as log:
        async with child(command, what, patience=_START, env=env, stderr=log) as process:
            yield Receiver(process, file)


async def _main(file: Path, port: int) -> None:
    with file.open("a", buffering=1) as kept:

        async def keep(request: web.Request) -> web.Response:
            body = (await request.read()).decode(errors="replace")
            print(json.dumps({"path": request.path, "body": body}), file=kept)
            return web.Response()

        application = web.Application()
        application.router.add_post("/{path:.*}", keep)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", port).start()
        print("ready", flush=True)
        await parent_ended()
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2])))
