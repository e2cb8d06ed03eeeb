"""What a sidecar does about a drill, over everything that it can know."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.injection.decision import (
    Active,
    Decision,
    Facts,
    GatherFacts,
    Idle,
    Inject,
    Refuse,
    Repair,
    Restore,
    decide,
)
from sidecar.injection.keys import Answer, DrillKeys, Order, Said
from sidecar.injection.rules import Code, Fault, InjectionRules
from sidecar.recovery.decision import Peers

NOW = 1000.0
RULES = InjectionRules(frozenset({Fault.CRASH, Fault.FREEZE}), 60.0)
ORDER = Order("d1", "jane@desk", 1.0, "freeze", "triton-0", "freeze", 30.0)
HELD = DrillKeys(ORDER, "session")
FACTS = Facts("triton-0", HELD, True, "", True, "", Peers(1, 0), NOW)
ON = Active("d1", Fault.FREEZE, NOW + 30)


def said(what: Said, order: str = "d1", instance: str = "triton-0") -> Answer:
    return Answer(order, instance, what, 1.0, fault="freeze")


def ordered(**changes: object) -> DrillKeys:
    return DrillKeys(replace(ORDER, **changes), "session")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "decided"),
    [
        (FACTS, Inject(ORDER, Fault.FREEZE, 30.0)),
        (replace(FACTS, others=None), GatherFacts()),
        # Another one's, nobody's, none yet, or dealt with already.
        (replace(FACTS, instance="triton-1"), Idle()),
        (replace(FACTS, keys=DrillKeys()), Idle()),
        (replace(FACTS, keys=replace(HELD, session=None)), Idle()),
        (replace(FACTS, keys=ordered(fault="")), Idle()),
        (replace(FACTS, handled="d1"), Idle()),
        (replace(FACTS, keys=replace(HELD, answers=(said("refused"),))), Idle()),
        (replace(FACTS, keys=replace(HELD, answers=(said("restored"),))), Idle()),
        (replace(FACTS, current=False), Idle()),
        # An earlier process of this sidecar has injected it.
        (replace(FACTS, keys=replace(HELD, answers=(said("injected"),))), Repair(said("injected"))),
        (
            replace(FACTS, keys=DrillKeys(answers=(said("injected", "d0"),))),
            Repair(said("injected", "d0")),
        ),
        (
            replace(FACTS, handled="d1", keys=replace(HELD, answers=(said("injected"),))),
            Idle(),
        ),
        (
            replace(FACTS, keys=DrillKeys(answers=(said("injected", instance="triton-1"),))),
            Idle(),
        ),
    ],
)
def test_what_is_done_without_a_fault(facts: Facts, decided: Decision) -> None:
    assert decide(facts, None, RULES) == decided


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (replace(FACTS, keys=ordered(fault="stubs-killed")), Code.NOT_PERMITTED),
        (replace(FACTS, keys=ordered(fault="of a later version")), Code.NOT_PERMITTED),
        (replace(FACTS, paused="kernel"), Code.PAUSED),
        (replace(FACTS, passing=False), Code.UNWELL),
        (replace(FACTS, others=Peers(unknown="no leader")), Code.UNKNOWN),
        (replace(FACTS, others=Peers(0, 0)), Code.ALONE),
        (replace(FACTS, others=Peers(2, 1)), Code.OTHERS_UNWELL),
    ],
)
def test_what_is_refused(facts: Facts, code: Code) -> None:
    decided = decide(facts, None, RULES)
    assert isinstance(decided, Refuse)
    assert (decided.order, decided.code) == (facts.keys.order, code)
    assert decided.why


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (replace(FACTS, keys=ordered(fault="")), Code.ENDED),
        (replace(FACTS, keys=ordered(fault="crash")), Code.ENDED),
        (replace(FACTS, keys=ordered(id="d2")), Code.LOCK_LOST),
        (replace(FACTS, keys=replace(HELD, session=None)), Code.LOCK_LOST),
        (replace(FACTS, keys=DrillKeys()), Code.LOCK_LOST),
        (replace(FACTS, current=False), Code.CONSUL_LOST),
        (replace(FACTS, now=ON.until), Code.TIME_OVER),
    ],
)
def test_what_ends_a_fault(facts: Facts, code: Code) -> None:
    assert decide(replace(facts, handled="d1"), ON, RULES) == Restore(code)


def test_a_fault_lasts_while_the_drill_holds_its_lock() -> None:
    facts = replace(FACTS, handled="d1", passing=False, others=None)
    assert decide(facts, ON, RULES) == Idle()


def test_it_lasts_no_longer_than_the_settings_say() -> None:
    decided = decide(replace(FACTS, keys=ordered(seconds=3600.0)), None, RULES)
    assert decided == Inject(replace(ORDER, seconds=3600.0), Fault.FREEZE, 60.0)


ids = st.sampled_from(["", "d1", "d2"])
instances = st.sampled_from(["triton-0", "triton-1"])
orders = st.builds(
    Order,
    ids,
    st.just("jane"),
    st.just(1.0),
    st.just("s"),
    instances,
    st.sampled_from(["", "freeze", "crash", "stubs-killed", "unknown"]),
    st.floats(0, 1000),
)
saids = st.sampled_from(["injecting", "injected", "refused", "restored"])
answers = st.builds(Answer, ids, instances, saids, st.just(1.0))
all_keys = st.builds(
    DrillKeys,
    st.none() | orders,
    st.none() | st.just("session"),
    st.lists(answers, max_size=2).map(tuple),
)
all_facts = st.builds(
    Facts,
    st.just("triton-0"),
    all_keys,
    st.booleans(),
    ids,
    st.booleans(),
    st.sampled_from(["", "paused"]),
    st.none() | st.builds(Peers, st.integers(0, 2), st.integers(0, 2), st.sampled_from(["", "?"])),
    st.just(NOW),
)
actives = st.builds(Active, ids, st.sampled_from(Fault), st.floats(NOW - 10, NOW + 10))
all_rules = st.builds(InjectionRules, st.frozensets(st.sampled_from(Fault)), st.floats(1.0, 600.0))


@given(all_facts, all_rules)
def test_nothing_is_injected_without_every_condition(facts: Facts, rules: InjectionRules) -> None:
    decided = decide(facts, None, rules)
    if not isinstance(decided, Inject):
        return
    order, others = facts.keys.running, facts.others
    assert order == decided.order
    assert order is not None
    assert others is not None
    assert decided.fault in rules.allow
    assert decided.seconds <= min(order.seconds, rules.max_seconds)
    assert order.victim == facts.instance
    assert facts.current
    assert facts.passing
    assert not facts.paused
    assert (others.unknown, others.down) == ("", 0)
    assert others.count > 0
    assert order.id != facts.handled
    assert facts.keys.answer_of(facts.instance, order.id) is None


@given(all_facts, actives, all_rules)
def test_a_fault_is_never_kept_in_doubt(
    facts: Facts, active: Active, rules: InjectionRules
) -> None:
    decided = decide(facts, active, rules)
    order = facts.keys.running
    kept = (
        facts.current
        and facts.now < active.until
        and order is not None
        and (order.id, order.victim, order.fault)
        == (active.order, facts.instance, active.fault.value)
    )
    assert isinstance(decided, Idle if kept else Restore)


@given(all_facts, all_rules)
def test_without_permission_nothing_is_touched(facts: Facts, rules: InjectionRules) -> None:
    decided = decide(facts, None, replace(rules, allow=frozenset()))
    assert isinstance(decided, Idle | Refuse | Repair)
