"""Cutting what outlives a drain: the kernel resets Triton's connections.

Envoy ends no stream because its host was withdrawn, and Triton has no call for it. A reset is told
to Envoy at once: it sends a request again that has no answer yet, and fails a stream.
Why so: docs/decisions/0020-a-stuck-stream-is-cut-by-the-kernel.md.
"""

import asyncio

from sidecar.errors import DeadlineExceeded, Rejected

_TIMEOUT = 2.0  # seconds
_SS = ("ss", "--kill", "--no-header", "--numeric", "--tcp", "state", "established")


async def cut(port: int) -> int:
    """Reset the connections that were accepted on a TCP port of this machine; gives how many.

    Raises:
        Rejected: `ss` (iproute2) is not there, or may not: it takes CAP_NET_ADMIN, and a kernel
            that was built with INET_DIAG_DESTROY.
        DeadlineExceeded: it does not end.
    """
    pipe = asyncio.subprocess.PIPE
    try:
        child = await asyncio.create_subprocess_exec(
            *_SS, f"( sport = :{port} )", stdout=pipe, stderr=pipe
        )
    except OSError as error:
        raise Rejected(f"ss: cannot be started: {error}") from error
    try:
        said, complaints = await asyncio.wait_for(child.communicate(), _TIMEOUT)
    except TimeoutError:
        raise DeadlineExceeded(f"ss: did not end within {_TIMEOUT:g} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.communicate()
    # It ends with 0 even if nothing could be cut.
    if child.returncode or complaints:
        raise Rejected(f"ss: {complaints.decode(errors='replace').strip() or child.returncode}")
    return len(said.splitlines())
