"""What telling others has come to. That a request failed is a `RequestFailed` of "notify"."""

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.events import RequestFailed


@dataclass(frozen=True, slots=True)
class HookRan:
    """The command of a hook ended; `error` is empty if it did what it should."""

    hook: str
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class NotificationDropped:
    """Somebody, a hook or a target of notifications, will not be told of a change."""

    target: str
    what: str
    why: str


Told = HookRan | NotificationDropped | RequestFailed
Tell = Callable[[Told], None]
