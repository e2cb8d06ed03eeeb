"""The actions that `decision.decide` returns and `execute.execute` carries out. Pure."""

from dataclasses import dataclass

from sidecar.election.keys.orders import Order


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Create a session; the checks it is bound to depend on whether the instance serves yet."""


@dataclass(frozen=True, slots=True)
class RenewSession:
    """Renew the session."""


@dataclass(frozen=True, slots=True)
class CloseSession:
    """Destroy the session."""


@dataclass(frozen=True, slots=True)
class ReadCatalog:
    """Read the other candidates from the catalog."""


@dataclass(frozen=True, slots=True)
class Acquire:
    """Take the lock because of `cause`; this completes a due order, whichever instance it named."""

    cause: str
    order: Order | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """Release the lock to a named candidate, or to the best one; `order` is an order's id."""

    why: str
    to: str = ""
    order: str = ""


@dataclass(frozen=True, slots=True)
class UpdateClaim:
    """Write to the lock which model set the holder serves now."""


@dataclass(frozen=True, slots=True)
class NameCandidate:
    """Name the candidate of an order that names none."""

    order: Order
    to: str


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """Delete an order that cannot be carried out."""

    order: Order
    why: str


@dataclass(frozen=True, slots=True)
class OrderFailback:
    """Order the role back to this instance, which has the higher priority."""

    reason: str


Action = (
    OpenSession
    | RenewSession
    | CloseSession
    | ReadCatalog
    | Acquire
    | Release
    | UpdateClaim
    | NameCandidate
    | CancelOrder
    | OrderFailback
)


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing until a time (monotonic seconds), or until something changes."""

    why: str
    until: float | None = None
