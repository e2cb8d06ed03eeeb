"""Detects what a port that does not answer gRPC speaks: a server of another protocol is alive.

Acts: asyncio.
"""

import asyncio
import ssl
from contextlib import suppress

_REQUEST = b"GET / HTTP/1.1\r\nHost: triton\r\nConnection: close\r\n\r\n"


async def other_protocol(host: str, port: int, timeout: float) -> str:
    """The protocol instead of gRPC without TLS, and what to do about it; empty if unknown.

    To gRPC, TLS and HTTP/1 both look like a dying server that closes connections.

    Args:
        host: the server's host.
        port: its port.
        timeout: seconds for all attempts together.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            if await _speaks_tls(host, port):
                return (
                    "the port speaks TLS, and the sidecar none: expected in triton.grpc a port"
                    " without --grpc-use-ssl"
                )
            if await _speaks_http(host, port):
                return "the port speaks HTTP/1: expected the one of --grpc-port in triton.grpc"
    return ""


async def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        _, writer = await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLError as error:
        # A peer that refuses with an alert speaks TLS; it may want a client certificate.
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
    writer.transport.abort()
    return True


async def _speaks_http(host: str, port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(_REQUEST)
        try:
            return await reader.readexactly(len(b"HTTP/1.")) == b"HTTP/1."
        finally:
            writer.transport.abort()
    except (OSError, EOFError):
        return False
