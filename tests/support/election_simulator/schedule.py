"""Schedules: bytes that decide which event happens to which instance, and when. Any are valid."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sidecar.consul import api
from sidecar.election.decision import Failback
from sidecar.election.keys import lock, orders
from sidecar.election.keys.orders import Kind, Order, Pause
from sidecar.election.own_candidacy import Fit
from sidecar.registry.registration import NOFAILOVER
from sidecar.verdict.verdict_line import State
from tests.support.election_simulator.laws import require
from tests.support.election_simulator.member import EPOCH, Member
from tests.support.election_simulator.store import SERVICE
from tests.support.election_simulator.world import World

# Seconds between two events: from shorter than a request to longer than any lease.
_GAPS = (0.0, 0.001, 0.003, 0.004, 0.01, 0.05, 0.2, 0.5, 0.8, 1.0, 1.5, 2.5, 4.0, 6.0, 11.0, 15.0)
_SPANS = (
    0.004,
    0.05,
    0.5,
    1.2,
    3.0,
    5.5,
    9.0,
    10.0,
    10.1,
    12.0,
    15.0,
    19.0,
    21.0,
    30.0,
    45.0,
    100.0,
)
_JUMPS = (-3600.0, -70.0, -20.0, -5.0, 5.0, 20.0, 70.0, 3600.0)
_DELAYS = (0.0, 0.0, 6.0, 15.0)
# After all faults everything must be healthy within this time ...
_QUIET = 240.0
# ... and then no instance sends Consul more requests than this per second.
_RATE, _REST = 0.8, 20.0


def play(schedule: bytes, trace: list[str] | None = None) -> World:
    """Run a schedule to its end.

    Raises:
        Violation: an invariant was violated; `trace` has the events so far.
    """
    world = _begin(schedule[:5].ljust(5, b"\0"), trace)
    for event in _events(schedule[5:]):
        world.run(world.now + event.gap)
        _EVENTS[event.kind % len(_EVENTS)](world, event)
    _heal(world, resumed=bool(schedule[:1] < b"\xc0"))
    _settle(world)
    return world


@dataclass(frozen=True, slots=True)
class Event:
    """An event; the meaning of `who`, `x` and `y` depends on the kind."""

    gap: float
    kind: int
    who: int
    x: int
    y: int

    @property
    def span(self) -> float:
        return _SPANS[self.y % len(_SPANS)]


def _events(schedule: bytes) -> Iterator[Event]:
    for at in range(0, len(schedule) - 2, 3):
        first, kind, args = schedule[at : at + 3]
        yield Event(_GAPS[first & 15], kind, first >> 4, args & 15, args >> 4)


def _begin(head: bytes, trace: list[str] | None) -> World:
    shape, boots, traits, sets, lapses = head
    failback = Failback.AUTO if shape & 4 else Failback.NEVER
    world = World(2 + (shape & 3), _DELAYS[(shape >> 3) & 3], failback, boots * 1001)
    world.trace = trace
    world.store.lapse = _lapse(lapses)
    for n, member in enumerate(world.members):
        member.truth.priority = 200 if traits >> n & 1 else 100
        member.truth.model_set = "two" if sets >> n & 1 and sets & 0x80 else "one"
        # Sometimes one of them must never be primary.
        member.truth.tags = (NOFAILOVER,) if lapses & 0xC0 == 0xC0 and n == boots % 5 else ()
        world.register(member)
        world.check(member, "sidecar", "passing", "")
        world.start(member, member.boot)
        if traits & 0x80:  # else they have settled
            continue
        member.push()
        member.fit = Fit(member.mono() - 100.0, member.wall() - 100.0)
        world.register(member)
        member.reconsider()
    return world


def _lapse(state: int) -> Callable[[], float]:
    """The number of TTLs after which the next session ends: often as early as Consul may."""

    def lapse() -> float:
        nonlocal state
        state = (state * 5 + 3) % 256
        return (1.0, 1.0, 1.001, 1.3, 1.7, 2.0)[state % 6]

    return lapse


# --- events ---------------------------------------------------------------------------------


def _member(world: World, event: Event) -> Member:
    """The event's member: half of the time the primary."""
    holder = world.store.state.lock.instance
    if event.who >= 8 and holder is not None:
        return next(member for member in world.members if member.name == holder)
    return world.members[event.who % len(world.members)]


def _verdict(world: World, event: Event) -> None:
    member = _member(world, event)
    states = (State.CRITICAL, State.CRITICAL, State.WARNING, State.PASSING)
    member.truth.state = states[event.x % 4]
    world.log(f"{member.name} is {member.truth.state}")
    if member.alive:
        member.later(0.01, member.push)


def _cut(world: World, event: Event) -> None:
    member = _member(world, event)
    faults = member.faults
    if faults.cut:
        _join(world, member)
        return
    faults.cut, faults.silent = True, bool(event.x & 1)
    world.log(f"{member.name} is cut off {'silently' * faults.silent}")

    def unseen() -> None:
        if faults.cut:
            world.store.do(lambda store: store.node(member.name, up=False))

    if event.x & 2:  # the other nodes notice
        world.at(world.now + 8.0, unseen)
    if event.x & 4:
        world.at(world.now + event.span, lambda: _join(world, member))


def _join(world: World, member: Member) -> None:
    if not member.faults.cut:
        return
    world.log(f"{member.name} is not cut off any more")
    member.faults.cut = False
    world.store.do(lambda store: store.node(member.name, up=True))
    world.sync(member)
    world.refresh(member)


def _freeze(world: World, event: Event) -> None:
    """Freeze the process, or its machine, which Consul notices later."""
    member = _member(world, event)
    member.faults.backwards = bool(event.x & 1)
    member.freeze(event.span)
    world.log(f"{member.name} stands still for {event.span}")
    _notice(world, member, event.span, machine=bool(event.x & 2))


def _notice(world: World, member: Member, span: float, *, machine: bool) -> None:
    if not machine and span > 2.0:
        world.at(world.now + 2.0, lambda: world.poll(member))
        world.at(world.now + 10.0, lambda: world.lapse(member))


def _trap(world: World, event: Event) -> None:
    member = _member(world, event)
    member.faults.trap = event.x % 3, event.span
    world.log(f"{member.name} will stand still at step {event.x % 3} for {event.span}")


def _fate(world: World, event: Event) -> None:
    member = _member(world, event)
    member.faults.fate = event.x % 5, event.span
    world.log(f"{member.name}'s next request has fate {member.faults.fate}")


def _crash(world: World, event: Event) -> None:
    member = _member(world, event)
    if not member.alive:
        world.log(f"{member.name} is started")
        world.start(member, member.boot if event.x & 1 else 10.0)
        return
    world.log(f"{member.name} crashes")
    world.crash(member)
    if event.x & 2:
        world.at(world.now + event.span, lambda: _revive(world, member))


def _revive(world: World, member: Member) -> None:
    if not member.alive:
        world.log(f"{member.name} is started")
        world.start(member, member.boot)


def _agent(world: World, event: Event) -> None:
    member = _member(world, event)
    if not member.faults.agent_down:
        world.log(f"{member.name}'s agent is restarted")
        world.restart_agent(member, min(event.span, 30.0), event.x)


def _leader(world: World, event: Event) -> None:
    if world.store.leader:
        world.log("the servers have no leader")
        world.store.lose_leader()
        world.at(world.now + min(event.span, 30.0), lambda: _elected(world))


def _elected(world: World) -> None:
    if not world.store.leader:
        world.log("the servers have a leader")
        world.store.elect_leader()
        for member in world.members:
            world.refresh(member)


def _lag(world: World, event: Event) -> None:
    if event.x & 1:
        world.planes[event.who % 2].lag = event.span
    else:
        _member(world, event).faults.lag = min(event.span, 30.0)


def _order(world: World, event: Event) -> None:
    """An operator writes an order, flushes one, or forces a failover."""
    state = world.store.state
    if state.order and event.x & 8:
        gone = api.Delete(orders.order_key(SERVICE), state.order.index)
        world.log(f"an operator flushes {state.order}")
        world.laws.ended.add(state.order.id)
        world.store.do(lambda store: store.model.transact([gone], store.now()))
    if world.store.state.order or not world.store.leader:
        return
    order = Order(
        f"operator-{world.now}-{len(world.laws.orders)}",
        Kind.SWITCHOVER if event.x & 1 else Kind.FAILOVER,
        EPOCH + world.now + (event.span if event.x & 2 else 0.0),
        "operator",
        _member(world, event).name if event.y & 3 else None,
        force=bool(event.x & 4),
    )
    world.log(f"an operator orders {order}")
    _write(world, orders.order_key(SERVICE), order)


def _write(world: World, key: str, value: object) -> None:
    operation = api.Set(key, lock.dumps(value))
    world.store.do(lambda store: store.model.transact([operation], store.now()))


def _pause(world: World, event: Event) -> None:
    state = world.store.state
    if not world.store.leader:
        return
    if state.pause:
        _resume(world)
        return
    until = EPOCH + world.now + event.span if event.x & 1 else None
    world.log(f"an operator pauses until {until}")
    world.laws.pause = state.lock.instance if until is None else None
    _write(world, orders.pause_key(SERVICE), Pause(EPOCH + world.now, "operator", until=until))


def _resume(world: World) -> None:
    if pause := world.store.state.pause:
        gone = api.Delete(orders.pause_key(SERVICE), pause.index)
        world.log("an operator resumes")
        world.laws.pause = None
        world.store.do(lambda store: store.model.transact([gone], store.now()))


def _jump(world: World, event: Event) -> None:
    member = _member(world, event)
    member.faults.skew = _JUMPS[event.y % len(_JUMPS)]
    world.log(f"{member.name}'s wall clock is off by {member.faults.skew}")


def _edit(world: World, event: Event) -> None:
    """An operator edits the keys by hand."""
    key = lock.epoch_key(SERVICE) if event.x & 1 else lock.lock_key(SERVICE)
    entry = world.store.model.keys.get(key)
    if entry is None or not world.store.leader:
        return
    world.log(f"somebody edits {key}")
    world.laws.edited = True
    same = entry.value if event.x & 2 and key == lock.lock_key(SERVICE) else b"garbage"
    operation = api.Set(key, same)
    world.store.do(lambda store: store.model.transact([operation], store.now()))


def _maintain(world: World, event: Event) -> None:
    member = _member(world, event)
    reason = None if member.truth.maintained else "an operator is at work"
    if not world.reaches(member) or member.name not in world.store.model.services:
        return
    world.log(f"{member.name}: maintenance {reason}")
    world.store.do(lambda store: store.model.maintain(member.name, reason))
    member.truth.maintained = reason
    if member.alive:
        member.later(1.0, member.reconsider)


def _trait(world: World, event: Event) -> None:
    """An instance is reconfigured, or the canary of its proof fails."""
    member, truth = _member(world, event), _member(world, event).truth
    if not world.reaches(member) or member.name not in world.store.model.services:
        return
    match event.x % 4:
        case 0:
            truth.tags = () if truth.tags else (NOFAILOVER,)
        case 1:
            truth.model_set = "two" if truth.model_set == "one" else "one"
        case 2:
            truth.priority = 100 * (event.y % 3 + 1)
        case _:
            truth.asked = "" if truth.asked else "the canary's answer is wrong"
    truth.since = world.now
    world.log(f"{member.name} is {truth}")
    world.register(member)
    if member.alive:
        member.later(0.1, member.reconsider)


def _stop(world: World, event: Event) -> None:
    member = _member(world, event)
    if not member.alive or member.stopping is not None:
        return
    world.log(f"{member.name} is told to stop")
    gen = member.gen

    def stop() -> None:
        if world.laws.quiet is None:
            member.stop()

    member.later(0.0, stop)

    def gone() -> None:
        if member.gen != gen:
            return
        if member.stopping == "gone" and world.store.leader and world.reaches(member):
            world.log(f"{member.name} is gone")
            world.leave(member)
        else:
            world.at(world.now + 0.5, gone)

    world.at(world.now + 0.5, gone)


def _nothing(world: World, event: Event) -> None:
    """Only time passes; schedules shrink to this."""


_EVENTS = (
    _nothing, _verdict, _cut, _freeze, _trap, _fate, _crash, _agent, _leader, _lag, _order, _pause,
    _jump, _edit, _maintain, _trait, _stop, _trap, _fate, _freeze, _order, _verdict, _trap,
)  # fmt: skip


# --- the end ----------------------------------------------------------------------------------


def _heal(world: World, *, resumed: bool) -> None:
    """End all faults: crashed instances start, unhealthy ones stay unhealthy."""
    world.log("everything is healed")
    world.laws.quiet = world.now
    _elected(world)
    for plane in world.planes:
        plane.lag = 0.0
    for member in world.members:
        faults = member.faults
        faults.lag = faults.skew = 0.0
        faults.trap = faults.fate = None
        world.agent_back(member)
        _join(world, member)
        if member.alive and member.stopping is None:
            member.later(1.0, member.push)
            member.later(1.0, member.reconsider)
            member.later(1.0, member.step)
            world.at(world.now + 1.0, _polling(world, member))
            world.refresh(member, 1.0)
        else:
            if member.alive:
                world.crash(member)
            world.start(member, member.boot)
        faults.frozen_until = min(faults.frozen_until, world.now)
        world.thaw(member)
    if resumed:
        _resume(world)


def _polling(world: World, member: Member) -> Callable[[], None]:
    return lambda: world.poll(member)


def _settle(world: World) -> None:
    """Require that everything is healthy soon and stays so, with few requests."""
    end, wrong = world.now + _QUIET, "nothing was looked at"
    world.run(world.now + 3.0)
    while world.now < end and (wrong := _wrong(world)):
        world.run(world.now + 2.0)
    world.log(wrong or "everything is in order")
    require(not wrong, wrong)
    world.laws.history()
    if world.planes[0].known.newest_epoch % 8:
        return
    tenures, asked = len(world.laws.grants), world.rest(world.members)
    world.run(world.now + _REST)
    world.laws.history()
    rate = (world.rest(world.members) - asked) / _REST / len(world.members)
    failback = world.members[0].rules.failback is Failback.AUTO
    require(
        rate <= _RATE * (1 + failback), f"at rest Consul is asked {rate:g} times a second by each"
    )
    require(
        len(world.laws.grants) == tenures or failback, "the role has moved although all is well"
    )


def _wrong(world: World) -> str:
    """What is not healthy yet; a paused mesh must only make no claim."""
    state = world.store.state
    if state.paused(EPOCH + world.now) and state.lock.instance is None:
        if state.pause and state.pause.until:
            return "it is paused for a while"
        # Two TTLs until its session expires, a lock-delay, and the pause between two attempts.
        resumes = (world.laws.quiet or 0.0) + 60.0
        return "its last holder may resume" if world.now < resumes else ""
    if wrong := world.laws.unsettled():
        return wrong
    believed = {plane.known.newest_epoch for plane in world.planes}
    held = state.lock.instance is not None
    return f"planes believe {believed}" if held and believed != {state.lock.epoch} else ""
