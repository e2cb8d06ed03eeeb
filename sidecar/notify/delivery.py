"""The loop that posts changes to a target in sequence, retries, and repeats lasting alerts.

Acts: through what it imports or is given.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from sidecar.events import Hook, RequestFailed
from sidecar.notify import backlog
from sidecar.notify.alerts import alert
from sidecar.notify.backlog import Next
from sidecar.notify.change_queue import ChangeQueue
from sidecar.notify.documents import Change, VerdictChange, document, encode
from sidecar.notify.rules import Receiver
from sidecar.notify.webhook import post
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import Rejected, SidecarError
from sidecar.runtime.latest import first_of

_JITTER = 0.3  # many sidecars lose a target at once, and must not retry in step
Post = Callable[[bytes], Awaitable[None]]


class Delivery:
    """Posts each change to one address."""

    def __init__(
        self,
        name: str,
        receiver: Receiver,
        clock: Clock,
        emit: Hook,
        send: Post | None = None,
    ) -> None:
        self.name = name
        self._receiver = receiver
        self._clock = clock
        self._emit = emit
        self._post = send or partial(post, receiver, f"notify.{name}")
        self._queued = ChangeQueue(name, emit)
        self._trying = False
        self._failures = 0  # in a row, over all changes
        # The lasting alert, and when to repeat it.
        self._lasting: VerdictChange | None = None
        self._again_at = 0.0

    @property
    def settled(self) -> bool:
        """Whether all changes are delivered, or the target is failing at present."""
        return self._failures > 0 or not (self._trying or self._queued.waiting)

    def put(self, change: Change) -> None:
        """Queue a change, if the target wants changes of its subject."""
        if change.subject.value in self._receiver.on:
            self._queued.put(change)

    async def run(self) -> None:
        """Deliver queued changes, until cancelled."""
        while True:
            change = await self._next()
            self._trying = True
            try:
                await self._deliver(change)
            finally:
                self._trying = False

    async def _next(self) -> Change:
        """The next change: a lasting alert that is due again, or a queued one."""
        while True:
            lasting, left = self._lasting, self._again_at - self._clock.now()
            if lasting and left <= 0 and not backlog.outdated(self._queued.waiting, lasting):
                change: Change | None = lasting
            else:
                change = self._queued.take()
            if change:
                self._remember(change)
                return change
            if lasting:
                await first_of(self._clock, left, self._queued.news())
            else:
                await self._queued.news()

    def _remember(self, change: Change) -> None:
        if self._receiver.kind == "alertmanager" and isinstance(change, VerdictChange):
            self._lasting = change if change.alarming else None
            self._again_at = self._clock.now() + self._receiver.resend

    async def _deliver(self, change: Change) -> None:
        """Deliver one change, unless it is rejected or superseded."""
        attempts = 0
        while error := await self._attempt(change):
            if isinstance(error, Rejected):
                self._queued.drop(change, str(error))
                break
            attempts += 1
            await self._pause_after(error)
            waiting, retries = self._queued.waiting, self._receiver.retries
            then = backlog.after_failure(waiting, change, attempts, retries)
            if then is Next.NEVER:
                self._queued.drop(change, f"superseded by a newer change: {error}")
                return
            if then is Next.LAST:
                self._queued.put(change)
                return
        self._failures = 0

    async def _pause_after(self, error: SidecarError) -> None:
        self._failures += 1
        self._emit(RequestFailed("notify", self.name, error))
        pause = backlog.pause(self._failures)
        await self._clock.sleep(self._clock.jitter(pause, _JITTER))

    async def _attempt(self, change: Change) -> SidecarError | None:
        try:
            await self._post(self._body(change))
        except SidecarError as error:
            return error
        return None

    def _body(self, change: Change) -> bytes:
        if self._receiver.kind == "json":
            return encode(document(change))
        return encode([alert(change, self._clock.wall(), self._receiver.resend)])
