"""HTTP requests to the parts of a mesh that no client of ours covers, as an operator's curl would.

Acts: aiohttp.
"""

from collections.abc import Mapping

import aiohttp

from sidecar.runtime.errors import Rejected, Unavailable

_DEADLINE = aiohttp.ClientTimeout(total=180.0)


async def request(
    method: str, url: str, body: object = None, headers: Mapping[str, str] | None = None
) -> str:
    """The text of a successful answer; `body` is sent as JSON.

    Raises:
        Unavailable: there was no answer.
        Rejected: the answer is an error; the message has its status and text.
    """
    try:
        async with (
            aiohttp.ClientSession(timeout=_DEADLINE, headers=headers) as session,
            session.request(method, url, json=body) as answer,
        ):
            text = await answer.text()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Unavailable(f"{method} {url}: {error!r}") from error
    if not answer.ok:
        raise Rejected(f"{method} {url}: {answer.status} {text}")
    return text
