"""A participant as the candidate of an order: it proves itself, settles, and fails back."""

import pytest

from sidecar.consul.api import Delete
from sidecar.election.keys import orders
from sidecar.election.keys.orders import Kind
from sidecar.election.lease import Role
from sidecar.events import FailbackDue
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State
from tests.support.election_stage import stage
from tests.support.rewording import any_words as any_words


async def test_a_candidate_proves_itself_before_the_primary_releases_the_role() -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        assert await it.primary() == "a"
        await it.order(to="b", reason="new kernel")
        await it.clock.advance(1)
        assert (await it.primary(), b.asked) == ("b", 1)
        assert (a.role, b.role) == (Role.STANDBY, Role.PRIMARY)
        board = await it.state()
        assert board.order is None
        assert board.outcome
        assert board.outcome.done
        assert (await it.history())[-1][:2] == ("a", "b")


async def test_a_candidate_that_finds_itself_unfit_changes_nothing() -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        b.wrong = "m: CANARY_WRONG_ANSWER"
        epoch = a.participant.election.epoch
        await it.order(to="b")
        await it.clock.advance(1)
        assert (a.role, a.participant.election.epoch) == (Role.PRIMARY, epoch)
        outcome = (await it.state()).outcome
        assert outcome
        assert (outcome.done, bool(outcome.why)) == (False, True)


@pytest.mark.parametrize(("settles", "primary"), [(3, "b"), (600, "a")])
async def test_a_candidate_that_has_just_recovered_settles_first(
    settles: int, primary: str
) -> None:
    async with stage(a={}, b={"settle": f"{settles}s"}) as it:
        _, b = it.actors.values()
        await b.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        await b.passes()
        await it.order(to="b")
        await it.clock.advance(1)
        assert (await it.primary(), b.asked) == ("a", 0)
        await it.clock.advance(3)
        assert await it.primary() == primary
        outcome = (await it.state()).outcome
        assert outcome
        assert outcome.done == (primary == "b")


async def test_the_time_it_settles_at_is_published() -> None:
    async with stage(a={}, b={"settle": "8s"}) as it:
        _, b = it.actors.values()
        published = [b.participant.settled_at]
        await it.clock.advance(8)
        published.append(b.participant.settled_at)
        await b.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        published.append(b.participant.settled_at)
        nudged, until = b.nudged, it.clock.wall() + 8
        await b.passes()
        assert b.nudged > nudged
        published.append(b.participant.settled_at)
        await it.clock.advance(7.5)
        published.append(b.participant.settled_at)  # unchanged, so not written again
        await it.clock.advance(0.5)
        published.append(b.participant.settled_at)
        assert published == [until - 13, None, None, until, until, None]


async def test_it_requests_the_role_back_no_sooner_than_it_may_take_it() -> None:
    back = {"priority": 200, "failback": "auto", "failback_settle": "10s", "settle": "40s"}
    async with stage(a={}, b=back) as it:
        a, b = it.actors.values()
        await it.clock.advance(30)
        assert (a.role, (await it.state()).outcome) == (Role.PRIMARY, None)
        await it.clock.advance(15)
        assert b.role is Role.PRIMARY


async def test_an_order_can_be_cancelled_while_its_candidate_settles() -> None:
    async with stage(a={}, b={"settle": "8s"}) as it:
        _, b = it.actors.values()
        await b.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        await b.passes()
        await it.order(to="b")
        await it.clock.advance(2)
        await it.consul.transact(Delete(orders.order_key("t"), (await it.state()).order_index))
        await it.clock.advance(10)
        assert (await it.primary(), b.asked) == ("a", 0)
        # And the next order is seen at once.
        await it.order(to="b")
        await it.clock.advance(0.5)
        assert await it.primary() == "b"


async def test_the_candidate_of_a_failover_does_not_settle_first() -> None:
    async with stage(a={}, b={"settle": "600s"}) as it:
        _, b = it.actors.values()
        await b.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        await b.passes()
        await it.order(Kind.FAILOVER, to="b")
        await it.clock.advance(0.5)
        assert (await it.primary(), b.asked) == ("b", 1)


async def test_an_instance_with_another_model_set_is_not_a_candidate() -> None:
    async with stage(a={}, b={"mismatch": "serve"}) as it:
        _, b = it.actors.values()
        b.model_set.set("triton-00000000000000bb")
        await it.order(to="b")
        await it.clock.advance(1)
        assert await it.primary() == "a"
        outcome = (await it.state()).outcome
        assert outcome
        assert not outcome.done


async def test_a_scheduled_order_waits_for_its_time() -> None:
    async with stage(a={}, b={}) as it:
        await it.order(to="b", at=it.clock.wall() + 600)
        await it.clock.advance(599)
        assert await it.primary() == "a"
        await it.clock.advance(3)
        assert await it.primary() == "b"


async def test_automatic_failback() -> None:
    async with stage(a={}, b={"priority": 200, "failback": "auto"}) as it:
        a, b = it.actors.values()
        assert a.role is Role.PRIMARY
        await it.clock.advance(50)
        assert a.role is Role.PRIMARY  # b has to pass for failback_settle first
        await it.clock.advance(30)
        assert (a.role, b.role) == (Role.STANDBY, Role.PRIMARY)
        assert (await it.history())[-1][:2] == ("a", "b")


@pytest.mark.parametrize(("failback", "due"), [("manual", True), ("never", False)])
async def test_failback_only_if_configured(failback: str, due: bool) -> None:
    async with stage(a={}, b={"priority": 200, "failback": failback}) as it:
        a, b = it.actors.values()
        await it.clock.advance(200)
        assert a.role is Role.PRIMARY
        assert (FailbackDue(True) in b.events_of(FailbackDue)) == due
