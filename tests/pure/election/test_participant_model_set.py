"""Participants whose model sets differ, and cold standbys."""

import asyncio

import pytest

from sidecar.election.lease import Role
from sidecar.events import ModelSetCompared
from sidecar.runtime.errors import Conflict, Unavailable
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State
from tests.support.election_stage import PATIENCE, Actor, Stage, stage
from tests.support.rewording import any_words as any_words
from tests.support.virtual_clock import settle


@pytest.mark.parametrize(
    ("loaded", "found"), [(True, State.PASSING), (False, State.COLD)], ids=["loaded", "cold"]
)
async def test_a_standby_is_cold_only_once_its_triton_has_reported_it(
    loaded: bool, found: State
) -> None:
    """A sidecar starts next to a Triton that serves, and knows nothing yet."""
    made = Stage()
    actor = Actor(made, "a", standby="cold")
    model = actor.triton.models["m"]
    model.loaded = model.ready = loaded
    actor.triton.index_error = Unavailable("Triton: no answer")
    loops = [asyncio.create_task(loop()) for loop in actor.participant.loops().values()]
    await made.clock.advance(5)
    assert actor.participant.shown.value.unproven
    assert actor.participant.cold  # so that no instance takes it for loaded either
    actor.triton.index_error = None
    await made.clock.advance(2)
    await actor.passes()
    assert actor.participant.shown.value.state is found
    assert actor.participant.cold is not loaded
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)


async def test_next_to_loaded_models_it_unloads_none_before_another_instance_is_primary() -> None:
    """A restarted sidecar takes the role a moment later."""
    cold = {"standby": "cold", "unload": True}
    async with stage(a=cold) as it:
        [a] = it.actors.values()
        assert (a.role, a.triton.orders) == (Role.PRIMARY, [])
    async with stage(b={}, a=cold) as it:
        b, a = it.actors.values()
        assert (b.role, a.triton.orders) == (Role.PRIMARY, ["unload m"])


async def test_another_model_set_is_reported_and_refuses_requests() -> None:
    async with stage(a={}, b={}) as it:
        _, b = it.actors.values()
        b.model_set.set("triton-00000000000000bb")
        await settle()
        assert b.participant.differs
        assert isinstance(b.events_of(ModelSetCompared)[-1], ModelSetCompared)
        reasons = {finding.reason for finding in b.assessment.evidence}
        assert Reason.MODEL_SET_DIFFERS in reasons
        b.model_set.set("triton-00000000000000aa")
        await settle()
        assert b.participant.differs == ""
        assert Reason.MODEL_SET_DIFFERS not in {f.reason for f in b.assessment.evidence}


def refuses(actor: Actor) -> bool:
    """Whether it refuses requests because of its model set."""
    return Reason.MODEL_SET_DIFFERS in {finding.reason for finding in actor.assessment.evidence}


async def test_a_primary_that_loads_another_model_set_takes_no_instance_out_of_service() -> None:
    async with stage(a={}, b={}, c={}) as it:
        a, b, c = it.actors.values()
        a.model_set.set("triton-00000000000000bb")
        await a.passes()
        a.participant.reconsider()
        await it.clock.advance(5)
        last = (await it.state()).lock.last
        assert last
        assert last.model_set == "triton-00000000000000bb"
        assert [bool(each.participant.differs) for each in (a, b, c)] == [False, True, True]
        assert not any(map(refuses, (a, b, c)))
        await a.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        await it.clock.advance(5)
        assert await it.primary() in ("b", "c")
        assert [each for each in (b, c) if refuses(each)] == []


async def test_an_instance_that_joins_with_another_model_set_refuses_requests_for_good() -> None:
    async with stage(a={}, b={}, c={}) as it:
        a, b, c = it.actors.values()
        c.model_set.set("triton-00000000000000bb")
        await c.passes()
        assert (refuses(b), refuses(c)) == (False, True)
        await a.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        await it.clock.advance(5)
        assert await it.primary() == "b"
        assert refuses(c)


async def test_a_pending_order_is_kept() -> None:
    async with stage(a={}, b={}) as it:
        a, _ = it.actors.values()
        await it.order(to="b", at=it.clock.wall() + 600)
        await settle()
        with pytest.raises(Conflict):
            await asyncio.wait_for(a.participant.hand_over(), PATIENCE)
        assert a.role is Role.PRIMARY
        found = (await it.state()).order
        assert found
        assert found.to == "b"
