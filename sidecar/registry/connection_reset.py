"""Resets the connections to Triton that outlive a withdrawal, through the kernel.

Envoy ends no stream when its host is withdrawn, and Triton has no API for it. Envoy sees a reset at
once: it retries a request that has no answer yet, and fails a stream.
Why: docs/decisions/0020-stuck-streams-are-reset-by-the-kernel.md.

Acts: asyncio, os.
"""

import asyncio
import os

from sidecar.runtime.errors import DeadlineExceeded, Rejected, words

_TIMEOUT = 2.0  # seconds
_SS = ("ss", "--no-header", "--numeric", "--tcp")


async def cut(port: int) -> int:
    """Reset others' connections to a TCP port of this machine; returns how many.

    This process's own probes are spared: their results must be about Triton, not about the reset.

    Raises:
        Rejected: `ss` (iproute2) is missing or not permitted: it takes CAP_NET_ADMIN, and a kernel
            built with INET_DIAG_DESTROY.
        DeadlineExceeded: `ss` does not end.
    """
    spared = [f"and dport != :{own}" for own in await _ours(port)]
    return len(await _ss("--kill", "state", "established", " ".join([f"sport = :{port}", *spared])))


async def _ours(port: int) -> list[int]:
    """The local ports of this process's connections to a port."""
    found = await _ss("--processes", "state", "established", f"dport = :{port}")
    # Columns: receive queue, send queue, local address, peer address, process.
    own = [line.split() for line in found if f"pid={os.getpid()}," in line]
    return [int(columns[2].rpartition(":")[2]) for columns in own]


async def _ss(*arguments: str) -> list[str]:
    """The lines that `ss` prints."""
    pipe = asyncio.subprocess.PIPE
    try:
        child = await asyncio.create_subprocess_exec(*_SS, *arguments, stdout=pipe, stderr=pipe)
    except OSError as error:
        raise Rejected(f"ss: cannot be started: {words(error)}") from error
    try:
        output, complaints = await asyncio.wait_for(child.communicate(), _TIMEOUT)
    except TimeoutError:
        raise DeadlineExceeded(f"ss: did not end within {_TIMEOUT:g} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.communicate()
    # It exits with 0 even if it could not reset anything.
    if child.returncode or complaints:
        raise Rejected(f"ss: {complaints.decode(errors='replace').strip() or child.returncode}")
    return output.decode(errors="replace").splitlines()
