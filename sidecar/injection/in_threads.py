"""The faults of `triton_faults` for an event loop: each call runs in a separate thread.

psutil costs memory, so `triton_faults` is imported only when a drill orders a fault.

Acts: through what it imports or is given.
"""

from typing import TYPE_CHECKING

from sidecar.injection.rules import Fault
from sidecar.runtime.addresses import split_address
from sidecar.runtime.threads import in_daemon_thread

if TYPE_CHECKING:
    from sidecar.injection.triton_faults import PreparedFault


class ThreadedFault:
    """A prepared fault; errors as for `PreparedFault`."""

    def __init__(self, prepared: "PreparedFault") -> None:
        self._prepared = prepared

    async def arm(self, seconds: float) -> None:
        """Start the dead man's switch."""
        await in_daemon_thread(lambda: self._prepared.arm(seconds), "dead man's switch")

    async def cause(self) -> None:
        """Cause the fault."""
        await in_daemon_thread(self._prepared.cause, "cause a fault")

    async def undo(self) -> None:
        """Undo the fault."""
        await in_daemon_thread(self._prepared.undo, "undo a fault")


async def prepare(fault: Fault, triton: str) -> ThreadedFault:
    """Find and verify the processes of a fault; `triton` is the host:port of its gRPC service.

    Raises:
        Rejected: as for `PreparedFault`.
    """

    def find() -> "PreparedFault":
        from sidecar.injection.triton_faults import PreparedFault

        return PreparedFault(fault, *split_address(triton))

    return ThreadedFault(await in_daemon_thread(find, "processes of a fault"))


async def thaw(triton: str) -> None:
    """Continue the processes of a Triton; errors as for `triton_faults.thaw`."""

    def thawing() -> None:
        from sidecar.injection import triton_faults

        triton_faults.thaw(*split_address(triton))

    await in_daemon_thread(thawing, "thaw Triton")
