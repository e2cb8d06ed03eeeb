"""The proxy in front of an agent of 1.8, which answers as a streaming agent does.

It answers a blocking query on a service's health from a view, and forwards everything else. While
the agent is unreachable, the proxy behaves like an agent without servers: views keep their last
state, and all other requests fail, even those that a real agent would answer itself, such
as for the services that are registered with it.
"""

import argparse
import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web
from yarl import URL

from sidecar.local.planning.ports import reserve
from tests.support.consul_agent import is_streamed
from tests.support.streaming.view import Refused, Shown, View

# An agent's errors without servers: of a read, and of a query that waits for a view.
_NO_SERVERS = "No known Consul servers"
_CUT = "error reading from server: EOF"
# A server that has just started has not read its log yet, and shows an empty catalog.
_NOT_YET = "No cluster leader"
_PATH = re.compile(r"/v1/health/(service|connect)/[^/]+")
# A streaming agent answers none of these from a view.
_UNSTREAMED = frozenset({"near", "cached", "merge-central-config"})
# Parameters that do not change which answer is wanted.
_MANNER = frozenset({"index", "wait", "stale", "consistent", "pretty"})
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_WAIT, _LONGEST_WAIT = 300.0, 600.0  # seconds, as in Consul
_BETWEEN_HOSTS = frozenset(
    {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
)
_LARGEST = 16 << 20
_LOOK = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class Question:
    """The key of a view: the token and the query."""

    path: str
    parameters: tuple[tuple[str, str], ...]
    token: str | None


class Front:
    """Answers requests for the agent at `agent`, host:port."""

    def __init__(self, agent: str) -> None:
        self._agent = URL(f"http://{agent}")
        self._views: dict[Question, View] = {}
        self._keeping: set[asyncio.Task[None]] = set()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
        )

    async def close(self) -> None:
        """Close all views and connections."""
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        await self._session.close()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        asked = _streamed(request)
        if asked is None:
            return await self._forward(request)
        question, above, wait = asked
        found = await self._view(question).query(above, wait)
        if isinstance(found, Refused):
            return web.Response(status=found.status, text=found.text)
        headers = {
            "X-Consul-Index": str(max(found.index, 1)),
            "X-Consul-KnownLeader": "false",
            "X-Consul-LastContact": "0",
            "X-Consul-Effective-Consistency": _consistency(request.query),
            "X-Consul-Query-Backend": "streaming",
        }
        return web.Response(body=found.body, headers=headers, content_type="application/json")

    def _view(self, question: Question) -> View:
        view = self._views.get(question)
        if view is None:
            view = self._views[question] = View(lambda index: self._subscribe(question, index))
            self._keeping.add(asyncio.create_task(view.keep(), name=f"view of {question.path}"))
        return view

    async def _subscribe(self, question: Question, index: int) -> Shown | Refused:
        """A blocking query that any server may answer, as a stream may come from any."""
        url = self._agent.with_path(question.path).with_query(
            [*question.parameters, ("index", str(index)), ("wait", f"{_WAIT:g}s"), ("stale", "")]
        )
        headers = {"X-Consul-Token": question.token} if question.token else {}
        try:
            async with self._session.get(url, headers=headers) as answer:
                body = await answer.read()
                if answer.status != 200:
                    text = body.decode(errors="replace").strip()
                    return Refused(answer.status if answer.status == 403 else 503, text)
                leader = answer.headers["X-Consul-KnownLeader"] == "true"
                if not leader and not is_streamed(answer.headers):
                    return Refused(503, _NOT_YET)
                return Shown(int(answer.headers["X-Consul-Index"]), body)
        except (aiohttp.ClientError, OSError):
            return Refused(503, _CUT)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        url = self._agent.join(URL(request.raw_path, encoded=True))
        try:
            async with self._session.request(
                request.method,
                url,
                headers=_end_to_end(request.headers),
                data=await request.read(),
                allow_redirects=False,
            ) as answer:
                body, headers = await answer.read(), _end_to_end(answer.headers)
        except (aiohttp.ClientError, OSError):
            return web.Response(status=500, text=_NO_SERVERS)
        if "X-Consul-Index" in answer.headers:
            headers["X-Consul-Query-Backend"] = "blocking-query"
        return web.Response(status=answer.status, body=body, headers=headers)


@asynccontextmanager
async def streaming(agent: str, listen: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Put the proxy in front of the agent at `agent` during the context; gives its address."""
    front = Front(agent)
    application = web.Application(client_max_size=_LARGEST)
    application.router.add_route("*", "/{rest:.*}", front.answer)
    runner = web.AppRunner(
        application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
    )
    await runner.setup()
    host, _, port = listen.rpartition(":")
    try:
        await web.TCPSite(runner, host, int(port)).start()
        yield f"{host}:{runner.addresses[0][1]}"
    finally:
        await front.close()
        await runner.cleanup()


async def serve_until_exit(pid: int, listen: str) -> None:
    """Print where the agent must listen, and forward to it until its process is gone.

    It may notice the end late; until then it behaves like an agent without servers.
    """
    with reserve(1) as (port,):
        async with streaming(f"127.0.0.1:{port}", listen):
            print(port, flush=True)
            while Path(f"/proc/{pid}").exists():
                await asyncio.sleep(_LOOK)


def _streamed(request: web.Request) -> tuple[Question, int, float] | None:
    """The view's key, the index and the wait in seconds of a query that a view answers."""
    parameters = request.query
    index, wait = parameters.get("index", ""), _seconds(parameters.get("wait", f"{_WAIT:g}s"))
    blocks = index.isdecimal() and int(index) > 0
    about_health = request.method == "GET" and _PATH.fullmatch(request.path)
    if not (blocks and about_health) or wait is None or _UNSTREAMED & set(parameters):
        return None
    own = tuple(sorted((name, at) for name, at in parameters.items() if name not in _MANNER))
    token = request.headers.get("X-Consul-Token")
    return Question(request.path, own, token), int(index), wait


def _seconds(duration: str) -> float | None:
    """The seconds of a Go duration; None if it is not one."""
    parts = _DURATION.findall(duration)
    if not parts or "".join(map("".join, parts)) != duration:
        return None
    return min(sum(float(number) * _SECONDS[unit] for number, unit in parts), _LONGEST_WAIT)


def _consistency(parameters: Mapping[str, str]) -> str:
    asked = [name for name in ("stale", "consistent") if name in parameters]
    return asked[0] if asked else "leader"


def _end_to_end(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in headers.items() if name.lower() not in _BETWEEN_HOSTS}


def main() -> None:
    """Run the proxy in front of an agent, which is another process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", type=int, required=True, help="the agent's process")
    parser.add_argument("--listen", required=True, help="host:port")
    wished = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(serve_until_exit(wished.agent, wished.listen))


if __name__ == "__main__":
    main()
