"""HTTP requests to the parts of a mesh that no client of ours covers, as an operator's curl would.

Acts: aiohttp.
"""

from collections.abc import Mapping
from typing import Any

import aiohttp

from sidecar.local.meshfile import Mesh
from sidecar.runtime.errors import NotFound, Rejected, Unavailable

_NOT_FOUND = 404
_DEADLINE = aiohttp.ClientTimeout(total=180.0)


async def request(
    method: str, url: str, body: object = None, headers: Mapping[str, str] | None = None
) -> str:
    """The text of a successful answer; `body` is sent as JSON, or as it is if it is bytes.

    Raises:
        Unavailable: there was no answer.
        NotFound: the answer is 404.
        Rejected: the answer is another error; the message has its status and text.
    """
    try:
        async with (
            aiohttp.ClientSession(timeout=_DEADLINE, headers=headers) as session,
            session.request(method, url, **_sent(body)) as answer,
        ):
            text = await answer.text()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Unavailable(f"{method} {url}: {error!r}") from error
    if not answer.ok:
        kind = NotFound if answer.status == _NOT_FOUND else Rejected
        raise kind(f"{method} {url}: {answer.status} {text}")
    return text


async def consul(mesh: Mesh, method: str, path: str, body: object = None) -> str:
    """A request to a local mesh's Consul, below `/v1/`, with the management token.

    Raises:
        As `request`.
    """
    headers = {}
    if mesh.consul.token_file is not None:
        token = (mesh.consul.token_file.parent / "management").read_text().strip()
        headers["X-Consul-Token"] = token
    return await request(method, f"http://{mesh.consul.http}/v1/{path}", body, headers)


def _sent(body: object) -> dict[str, Any]:
    return {"data": body} if isinstance(body, bytes) else {"json": body}
