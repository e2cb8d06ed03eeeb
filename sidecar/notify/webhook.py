"""The HTTP client for notifications: posts one request and translates all errors.

It follows no redirects and ignores the environment's proxies: a token goes only to the receiver's
address.

Acts: aiohttp, asyncio.
"""

import asyncio
import ssl
from pathlib import Path

import aiohttp

from sidecar.notify.rules import Receiver
from sidecar.runtime import credentials
from sidecar.runtime.errors import DeadlineExceeded, Rejected, Unavailable, words
from sidecar.runtime.subprocesses import quote
from sidecar.runtime.threads import in_daemon_thread

_ANSWER = 4096  # bytes of an answer that are read
_LONG = 6  # characters; a shorter text is no secret, and occurs in many words
_PASSING = frozenset({408, 425, 429})  # client errors that may pass


async def post(receiver: Receiver, key: str, body: bytes) -> None:
    """Post JSON once; `key` names the table of the settings in errors.

    Raises:
        DeadlineExceeded: `receiver.timeout` has passed, even if only a file read hangs.
        Unavailable: there is no answer, or one with an error that may pass.
        Rejected: the receiver refuses or redirects it.
        ConfigError: a file that the settings name cannot be read.
    """
    reading = in_daemon_thread(
        lambda: (receiver.read_token(key), _tls(receiver.ca_file, key)), f"{key} files"
    )
    try:
        async with asyncio.timeout(receiver.timeout):
            token, tls = await reading
            await _send(receiver, token, tls, body)
    except TimeoutError:
        what = (
            "its token or certificate files were not read" if reading.cancelled() else "no answer"
        )
        raise DeadlineExceeded(f"{what} within {receiver.timeout:g} s") from None


async def _send(
    receiver: Receiver, token: str | None, tls: ssl.SSLContext | bool, body: bytes
) -> None:
    """Send one request and judge its answer. Secrets are removed from errors."""
    hidden = _Hidden(receiver, token)
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=tls),
                timeout=aiohttp.ClientTimeout(),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            ) as session,
            session.post(
                receiver.url,
                data=body,
                headers=_headers(receiver, token),
                allow_redirects=False,
            ) as answer,
        ):
            status = answer.status
            reply = b"" if status < 300 else await answer.content.read(_ANSWER)
    except TimeoutError:
        raise
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # No cause: it may hold the address, and the caller may log that.
        raise Unavailable(hidden.without(words(error))) from None
    _judge(status, quote(hidden.without(reply.decode(errors="replace"))))


def check(receiver: Receiver, key: str) -> None:
    """Find mistakes now that would otherwise show at the first change.

    Raises:
        ConfigError: a file that the settings name cannot be read.
    """
    receiver.read_token(key)
    _tls(receiver.ca_file, key)


class _Hidden:
    """Removes a receiver's secrets from text."""

    def __init__(self, receiver: Receiver, token: str | None) -> None:
        url = receiver.url
        path = url.partition("://")[2].partition("/")[2]
        headers = receiver.headers.values()
        self._secrets = [
            each for each in (url, path, token, *headers) if each and len(each) >= _LONG
        ]

    def without(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text


def _headers(receiver: Receiver, token: str | None) -> dict[str, str]:
    bearer = {"Authorization": f"Bearer {token}"} if token else {}
    return {
        "User-Agent": "triton-sidecar",
        **receiver.headers,
        **bearer,
        "Content-Type": "application/json",
    }


def _tls(ca_file: Path | None, key: str) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    return credentials.tls(key, ca_file)


def _judge(status: int, reply: str) -> None:
    if 200 <= status < 300:
        return
    remark = f": {reply}" if reply else ""
    if status in _PASSING or status >= 500:
        raise Unavailable(f"answered {status}{remark}")
    moved = " (redirects are not followed)" if status < 400 else ""
    raise Rejected(f"answered {status}{moved}{remark}")
