"""The invariants of a simulation: at every moment, and at its end."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from sidecar.consul import api
from sidecar.election.actions import NameCandidate
from sidecar.election.decision import ElectionView, Intent
from sidecar.election.keys import history, lock
from sidecar.election.keys.orders import ElectionState, Kind, Order, ended_for
from sidecar.verdict.verdict_line import State
from tests.support.election_simulator.member import EPOCH as BEGAN
from tests.support.election_simulator.member import Member
from tests.support.election_simulator.store import SERVICE, Request, Store

EPOCH = lock.epoch_key(SERVICE)
# Seconds within which an instance must know its own configuration, whatever happens, and the
# other instances' state, once all faults are over.
_KNOWN, _SEEN = 130.0, 8.0
_FAR = 300.0


class Violation(AssertionError):
    """An invariant was violated."""


def require(holds: object, why: str) -> None:
    if not holds:
        raise Violation(why)


@dataclass(frozen=True, slots=True)
class Grant:
    """A tenure in Consul's state; its predecessor is `known` unless the keys were edited."""

    epoch: int
    instance: str
    session: str
    at: float
    known: bool = True


@dataclass
class Laws:
    """Watches Consul's state and the leases of all members.

    `pause` is the last holder when automation was paused; `orders` has each order that was
    placed, and `ended` those with a reported outcome. `edited` is whether
    the keys were edited since the last tenure began, `quiet` the time since all faults are over.
    """

    store: Store
    members: list[Member] = field(default_factory=list)
    quiet: float | None = None
    grants: list[Grant] = field(default_factory=list)
    claims: dict[int, tuple[str, str]] = field(default_factory=dict)
    pause: str | None = None
    edited: bool = False
    orders: dict[str, Order] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    released: set[tuple[str, str]] = field(default_factory=set)

    # --- at every request -------------------------------------------------------------------

    def served(
        self, member: Member, request: Request, before: lock.ElectionLock, answer: object
    ) -> None:
        """A request of a member was served."""
        if not isinstance(answer, dict):
            return
        operations = request.operations
        if any(isinstance(each, api.Lock) for each in operations):
            self._granted(member, operations, answer[EPOCH])
        state = self.store.state
        if before.session and before.session != state.lock.session:
            owners = {each.instance for each in self.grants if each.session == before.session}
            require(member.name in owners, f"{member.name} has freed the lock of {owners}")
            for each in self.members:
                require(
                    each.lease.session != before.session or not each.claim,
                    f"{each.name} claims epoch {each.claim} when its lock is released",
                )
            self._let_go(state)

    def _granted(self, member: Member, operations: Iterable[api.Operation], epoch: int) -> None:
        session = next(each.session for each in operations if isinstance(each, api.Lock))
        last = self.grants[-1] if self.grants else None
        require(last is None or epoch >= last.epoch, f"epoch {epoch} after {last}")
        if last is None or epoch > last.epoch:
            known = not self.edited
            self.grants.append(Grant(epoch, member.name, session, self.store.now(), known))
            self.edited = False
        order = self.store.states[-2].order if len(self.store.states) > 1 else None
        ordered = order is not None and order.kind is not Kind.FAILBACK
        require(
            self.pause in (None, member.name) or ordered,
            f"{member.name} has taken the role while automation was paused",
        )
        self.pause = member.name if self.pause else None
        mended = len(self.grants) > 1 and self.grants[-2].session == session
        if not (mended or (ordered and order and order.force)):
            self._fit(member, self.store.states[-2])

    def _fit(self, member: Member, before: ElectionState) -> None:
        """An instance that takes the role must be allowed to, given what it had time to learn."""
        truth, now = member.truth, self.store.now()
        knows = truth.since + _KNOWN < now
        require(not (knows and truth.tags), f"{member.name} was not fit: it is tagged")
        if self.quiet is not None and self.quiet + _SEEN < now:
            against = self._against(member, self._wanted(before), serving=True)
            require(not against, f"{member.name} was not fit: {truth}")

    @staticmethod
    def directed(member: Member, view: ElectionView, action: NameCandidate) -> None:
        """A settling candidate is chosen only if the catalog shows no other fit one."""
        shown = view.field.candidates if view.field else ()
        chosen = next(each for each in shown if each.id == action.to)
        settled = [
            each.id
            for each in shown
            if each.id != member.name
            and each.state == "passing"
            and each.model_set == chosen.model_set
            and not (each.maintenance or each.nofailover)
            and (each.settled_at is None or each.settled_at <= view.wall)
        ]
        require(chosen.id in settled or not settled, f"{chosen} was chosen beside {settled}")

    def _let_go(self, state: ElectionState) -> None:
        """The lock was released for an order, which must happen only once for each."""
        ended = state.lock.last and state.lock.last.ended
        if state.order and ended and ended.to and ended_for(ended, state.order):
            key = state.order.id, ended.to
            require(key not in self.released, f"the lock was released twice for {key}")
            self.released.add(key)

    def noted(self) -> None:
        """The election's keys have changed."""
        state = self.store.state
        before = self.store.states[-2].order
        if state.order:
            self.orders.setdefault(state.order.id, state.order)
            if before and before.id != state.order.id:
                self.ended.add(before.id)  # replaced by another order
        if state.outcome:
            self.ended.add(state.outcome.order)

    # --- at every change of a lease -------------------------------------------------------------

    def learnt(self, member: Member) -> None:
        """A member's lease has changed."""
        if not (epoch := member.claim):
            return
        mine = member.name, member.lease.session or ""
        known = self.claims.setdefault(epoch, mine)
        require(known == mine, f"{mine} claims epoch {epoch} of {known}")
        others = [each.name for each in self.members if each is not member and each.claim == epoch]
        require(not others, f"{member.name} and {others} claim epoch {epoch}")
        require(
            any(grant.session == mine[1] for grant in self.grants),
            f"{mine} claims epoch {epoch} and never held the lock",
        )

    def expiring(self, session: str) -> None:
        """Consul ends a session by its TTL, and may give the lock to another one."""
        for member in self.members:
            require(
                member.lease.session != session or not member.claim,
                f"{member.name} claims epoch {member.claim} when its session ends by the TTL",
            )

    # --- at the end ---------------------------------------------------------------------------

    def history(self) -> None:
        """The history has one entry for each tenure, with its cause."""
        entries = history.read(SERVICE, self.store.model.keys.values())
        epochs = [grant.epoch for grant in self.grants]
        require([each.epoch for each in entries] == epochs, f"{entries} are not for {epochs}")
        before = ""
        for entry, grant in zip(entries, self.grants, strict=True):
            require(entry.cause, f"no cause: {entry}")
            require(entry.to == grant.instance, f"{entry} is not of {grant}")
            require(entry.by == before or not grant.known, f"{entry} came after {before}")
            before = entry.to

    def unsettled(self) -> str:
        """What is wrong after a long time without faults; empty if nothing is."""
        state, known = self.store.state, self.members
        claiming = [member.name for member in known if member.claim]
        held, order, now = state.lock.instance, state.order, BEGAN + self.store.now()
        # An order written by an instance whose clock was wrong may be due much later.
        far = order is not None and order.at > now + _FAR
        if claiming != ([held] if held else []):
            return f"{claiming} claim the role, {held} holds it"
        if any(member.state is not state for member in known if member.alive):
            return "somebody has not seen the newest state"
        if held is None:
            fit = self.fit()
            if order and order.until + 5.0 > now and not far:
                return f"{order} may be carried out yet"
            return f"{', '.join(fit)} could be primary" if fit else ""
        holder = next(member for member in known if member.name == held)
        if holder.claim != state.lock.epoch:
            return f"{held} claims epoch {holder.claim}, not {state.lock.epoch}"
        if holder.stand[0] is not Intent.SEEK:
            return f"{held} is primary and does not want to be"
        if order and not far:
            return f"{order} is still pending"
        waiting = {order.id} if order else set()
        if missing := set(self.orders) - self.ended - waiting:
            return f"nobody was told what became of {missing}"
        return ""

    def fit(self) -> list[str]:
        """The instances that may become primary now, computed without the tested code."""
        wanted = self._wanted(self.store.state)
        return [
            each.name
            for each in self.members
            if each.alive and not self._against(each, wanted, serving=self._resumes(each))
        ]

    def _resumes(self, member: Member) -> bool:
        """Whether it resumes the role although its verdict is a warning."""
        state, now = self.store.state, BEGAN + self.store.now()
        last = state.lock.last
        if last is None or last.instance != member.name or (last.ended and not state.paused(now)):
            return False
        return last.model_set == member.truth.model_set

    def _wanted(self, state: ElectionState) -> str:
        """The model set of the last primary, if a serving instance still has it."""
        last = state.lock.last.model_set if state.lock.last else ""
        catalog = self.store.model.services
        serving = (
            each.truth
            for each in self.members
            if each.name in catalog
            and each.truth.state is not State.CRITICAL
            and not each.truth.maintained
        )
        return last if any(truth.model_set == last for truth in serving) else ""

    @staticmethod
    def _against(member: Member, wanted: str, *, serving: bool) -> bool:
        """Whether anything disqualifies a member; serving may be enough."""
        truth = member.truth
        ill = truth.state is not State.PASSING and not (serving and truth.state is State.WARNING)
        other = bool(wanted) and truth.model_set != wanted
        return ill or other or bool(truth.tags) or truth.maintained is not None
