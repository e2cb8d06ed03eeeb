"""When recovery acts: tables, and a state machine that tries to break the rules."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidecar.recovery.decision import (
    FIXED_BY_RESTART,
    HOUR,
    Act,
    Attempt,
    Decision,
    Facts,
    GatherFacts,
    GiveUp,
    Idle,
    Ledger,
    Loadable,
    Peers,
    RecoveryRules,
    Wait,
    acted,
    decide,
    gave_up,
    observe,
    pause,
    reloaded,
    wake_at,
)
from sidecar.verdict.evidence import HUNG, Level, Reason
from sidecar.verdict.verdict_line import State

RULES = RecoveryRules(
    after=30, hung_after=5, budget=2, pause=30, max_pause=100, grace=40, forget_after=600
)
SILENT = Facts(State.CRITICAL, Reason.SERVER_UNANSWERED, 1000.0, "live: no", Peers(2, 0))
GONE = Facts(
    State.CRITICAL,
    Reason.MODEL_NOT_READY,
    1000.0,
    "m: no",
    Peers(2, 0),
    models=Loadable(("m",)),
)
FAILED = Facts(State.CRITICAL, Reason.CANARY_FAILED, 1000.0, "m: no", Peers(2, 0))
DOWN = Ledger(unhealthy_since=900.0)
OPENED = replace(DOWN, opened=1000.0)


def tried(*ended: float, streak: int | None = None) -> Ledger:
    attempts = tuple(Attempt(at - 1, at) for at in ended)
    return Ledger(900.0, None, attempts, len(ended) if streak is None else streak)


RESTARTED = acted(DOWN, Attempt(900.0, 910.0))
NOT_FIXED = acted(RESTARTED, Attempt(940.0, 950.0, "no", loaded=True))
FEW = replace(RULES, budget=1)
LOADING = replace(GONE, models=Loadable((), ("m",)))
FAILED_LOAD = acted(DOWN, Attempt(900.0, 950.0, "no such file", loaded=True))
TABLE = [
    ("unhealthy for long enough", DOWN, FAILED, RULES, Act("CANARY_FAILED: m: no")),
    ("a reason without detail", DOWN, replace(FAILED, detail=""), RULES, Act("CANARY_FAILED")),
    ("a dry run", DOWN, FAILED, replace(RULES, dry_run=True), Act("CANARY_FAILED: m: no", True)),
    ("starting", Ledger(), replace(FAILED, state=State.STARTING), RULES, Idle()),
    ("passing", Ledger(), replace(FAILED, state=State.PASSING), RULES, Idle()),
    ("warning", Ledger(), replace(FAILED, state=State.WARNING), RULES, Idle()),
    ("draining", Ledger(), replace(FAILED, state=State.DRAINING), RULES, Idle()),
    ("maintenance", Ledger(), replace(FAILED, state=State.MAINTENANCE), RULES, Idle()),
    ("the wrong canary", Ledger(), replace(FAILED, reason=Reason.CONFIG), RULES,
     Idle("no action on CONFIG")),
    ("the wrong version", Ledger(), replace(FAILED, reason=Reason.MODEL_WRONG_VERSION), RULES,
     Idle("no action on MODEL_WRONG_VERSION")),
    ("an unlisted reason", DOWN, FAILED,
     replace(RULES, reasons=frozenset({Reason.MODEL_HUNG})), Idle("no action on CANARY_FAILED")),
    ("not unhealthy for long enough", Ledger(971.0), FAILED, RULES,
     Wait(1001.0, "CANARY_FAILED for less than 30 s so far")),
    ("unhealthy for exactly that long", Ledger(970.0), FAILED, RULES, Act("CANARY_FAILED: m: no")),
    ("a shorter wait if it is hung", Ledger(994.0), replace(FAILED, reason=Reason.MODEL_HUNG),
     RULES,
     Act("MODEL_HUNG: m: no")),
    ("not hung for long enough", Ledger(996.0), replace(FAILED, reason=Reason.MODEL_HUNG), RULES,
     Wait(1001.0, "MODEL_HUNG for less than 5 s so far")),
    ("hung, without a wait", Ledger(1000.0), replace(FAILED, reason=Reason.MODEL_HUNG),
     replace(RULES, hung_after=0), Act("MODEL_HUNG: m: no")),
    ("just acted: the grace period is longer than the first pause", tried(990.0), FAILED, RULES,
     Wait(1030.0, "pausing for 40 s after action 1 in a row")),
    ("acted once, and it did not help", tried(960.0), FAILED, RULES, Act("CANARY_FAILED: m: no")),
    ("the second pause is longer", tried(900.0, 960.0), FAILED, RULES,
     Wait(1020.0, "pausing for 60 s after action 2 in a row")),
    ("the longest pause", tried(960.0, streak=9), FAILED, RULES,
     Wait(1060.0, "pausing for 100 s after action 9 in a row")),
    ("the pause is reset after a healthy period", tried(990.0, streak=0), FAILED, RULES,
     Act("CANARY_FAILED: m: no")),
    ("the budget is used up", tried(700.0, 800.0), FAILED, RULES,
     GiveUp("CANARY_FAILED after 2 actions within an hour")),
    ("an hour later there is budget again", tried(1001 - HOUR, 800.0), FAILED, RULES,
     Act("CANARY_FAILED: m: no")),
    ("a healthy period does not refill the budget", tried(700.0, 800.0, streak=0), FAILED, RULES,
     GiveUp("CANARY_FAILED after 2 actions within an hour")),
    ("it has given up", gave_up(DOWN, "enough"), FAILED, RULES, GiveUp("enough")),
    ("it has given up and is healthy again", gave_up(Ledger(), "enough"),
     replace(FAILED, state=State.PASSING), RULES, GiveUp("enough")),
    ("the others were not read yet", DOWN, replace(FAILED, others=None), RULES, GatherFacts()),
    ("another instance is down", DOWN, replace(FAILED, others=Peers(3, 1)), RULES,
     Wait(1002.0, "1 of 3 other instances are down")),
    ("the others are unknown", DOWN, replace(FAILED, others=Peers(unknown="no leader")), RULES,
     Wait(1002.0, "cannot tell the state of the other instances: no leader")),
    ("there are no others", DOWN, replace(FAILED, others=Peers(0, 0)), RULES,
     Act("CANARY_FAILED: m: no")),
    ("the others do not matter", DOWN, replace(FAILED, others=None),
     replace(RULES, allow_others_down=True), Act("CANARY_FAILED: m: no")),
    ("an action is due, and automation is paused", DOWN, replace(FAILED, paused=True), RULES,
     Wait(None, "automation is paused; CANARY_FAILED: m: no")),
    ("it does not give up while automation is paused", tried(700.0, 800.0),
     replace(FAILED, paused=True), RULES,
     Wait(None, "automation is paused; CANARY_FAILED: m: no")),
    ("a dry run is paused too", DOWN, replace(FAILED, paused=True),
     replace(RULES, dry_run=True), Wait(None, "automation is paused; CANARY_FAILED: m: no")),
    ("paused, and nothing is due yet", Ledger(971.0), replace(FAILED, paused=True), RULES,
     Wait(1001.0, "CANARY_FAILED for less than 30 s so far")),
    ("paused, and healthy", Ledger(), replace(FAILED, state=State.PASSING, paused=True), RULES,
     Idle()),
    ("it gave up before the pause", gave_up(DOWN, "enough"),
     replace(FAILED, paused=True), RULES, GiveUp("enough")),
    ("a server that has not been silent for long enough", Ledger(990.0), SILENT,
     replace(RULES, unanswered_after=15),
     Wait(1005.0, "SERVER_UNANSWERED for less than 15 s so far")),
    ("a server that has just opened its port", Ledger(980.0, opened=999.0), SILENT,
     replace(RULES, unanswered_after=5),
     Wait(1004.0, "SERVER_UNANSWERED for less than 5 s so far")),
    ("unhealthy for the longest wait", Ledger(970.0, opened=999.0), SILENT,
     replace(RULES, unanswered_after=5), Act("SERVER_UNANSWERED: live: no")),
    ("a server that answers no request", DOWN, SILENT, RULES, Act("SERVER_UNANSWERED: live: no")),
    ("it serves nothing, so the others do not matter", DOWN, replace(SILENT, others=Peers(2, 2)),
     RULES, Act("SERVER_UNANSWERED: live: no")),
    ("it serves nothing, and the others are unknown", DOWN, replace(SILENT, others=None), RULES,
     Act("SERVER_UNANSWERED: live: no")),
    ("a model was unloaded", DOWN, GONE, RULES, Act("MODEL_NOT_READY: m: no", load=("m",))),
    ("the loaded models were not read yet", DOWN, replace(GONE, others=None, models=Loadable()),
     replace(RULES, allow_others_down=True), GatherFacts()),
    ("a load does not depend on the others", DOWN, replace(GONE, others=Peers(1, 1)), RULES,
     Act("MODEL_NOT_READY: m: no", load=("m",))),
    ("a model was unloaded, and automation is paused", DOWN, replace(GONE, paused=True), RULES,
     Wait(None, "automation is paused; MODEL_NOT_READY: m: no")),
    ("unloaded in maintenance", Ledger(), replace(GONE, state=State.MAINTENANCE), RULES, Idle()),
    ("unloaded, because it is a cold standby", Ledger(), replace(GONE, state=State.COLD), RULES,
     Idle()),
    ("not unloaded for long enough", Ledger(971.0), GONE, RULES,
     Wait(1001.0, "MODEL_NOT_READY for less than 30 s so far")),
    ("loaded too often", tried(700.0, 800.0), GONE, RULES,
     GiveUp("MODEL_NOT_READY after 2 actions within an hour")),
    ("it may not be loaded here", DOWN, GONE, replace(RULES, load=False),
     Act("MODEL_NOT_READY: m: no")),
    ("nor restarted", DOWN, GONE, replace(RULES, load=False, reasons=frozenset()), Idle()),
    ("it may only be loaded", DOWN, GONE, replace(RULES, reasons=frozenset()),
     Act("MODEL_NOT_READY: m: no", load=("m",))),
    ("a reason that needs an action, without one", Ledger(), FAILED,
     replace(RULES, reasons=frozenset()), Idle()),
    ("loading it has failed", FAILED_LOAD, GONE, RULES, Act("MODEL_NOT_READY: m: no")),
    ("loading it has failed, and another instance is down", FAILED_LOAD,
     replace(GONE, others=Peers(2, 1)), RULES,
     Wait(1002.0, "1 of 2 other instances are down")),
    ("loading it has failed, and no restart is allowed", FAILED_LOAD, GONE,
     replace(RULES, reasons=frozenset()), Act("MODEL_NOT_READY: m: no", load=("m",))),
    ("it is being loaded", DOWN, replace(GONE, models=Loadable((), ("m",))), RULES,
     Wait(1002.0, "m: being loaded")),
    ("it is being loaded for too long", DOWN, replace(GONE, models=Loadable((), ("m",))),
     replace(RULES, load_timeout=100), Act("MODEL_NOT_READY: m: no")),
    ("it is being loaded since a restart", tried(950.0),
     replace(GONE, models=Loadable((), ("m",))), replace(RULES, load_timeout=100),
     Wait(1002.0, "m: being loaded")),
    ("it is loaded but not ready", DOWN, replace(GONE, models=Loadable()), RULES,
     Act("MODEL_NOT_READY: m: no")),
    ("it is loaded but not ready, and no restart is allowed", DOWN,
     replace(GONE, models=Loadable()),
     replace(RULES, reasons=frozenset()),
     Wait(1030.0, "MODEL_NOT_READY: m: no: there is no model to load")),
    ("loading is disabled, and no restart is allowed", DOWN,
     replace(GONE, models=Loadable(disabled=True)),
     replace(RULES, reasons=frozenset()),
     Wait(None, "MODEL_NOT_READY: m: no: there is no model to load")),
    ("the loaded models are unknown", DOWN, replace(GONE, models=Loadable(unknown="away")), RULES,
     Wait(1002.0, "cannot tell which models are loaded: away")),
    ("a restart did not load it and used up the budget", RESTARTED, GONE, FEW,
     Act("MODEL_NOT_READY: m: no", load=("m",))),
    ("after a restart the loaded models are read", RESTARTED,
     replace(GONE, others=None, models=Loadable()), FEW,
     GatherFacts()),
    ("the restarted Triton is loading it", RESTARTED, LOADING, FEW,
     Wait(1002.0, "m: being loaded")),
    ("the restarted Triton is loading it for too long", RESTARTED, LOADING,
     replace(FEW, load_timeout=50),
     GiveUp("MODEL_NOT_READY after 1 actions within an hour")),
    ("the restarted Triton has loaded it but it is not ready", RESTARTED,
     replace(GONE, models=Loadable()), FEW,
     GiveUp("MODEL_NOT_READY after 1 actions within an hour")),
    ("a restart that fixed nothing else is no excuse", RESTARTED, FAILED, FEW,
     GiveUp("CANARY_FAILED after 1 actions within an hour")),
    ("the load after a restart has failed", NOT_FIXED, GONE, FEW,
     GiveUp("MODEL_NOT_READY after 1 actions within an hour")),
    ("the others are not read before they matter", tried(990.0), replace(FAILED, others=None),
     RULES,
     Wait(1030.0, "pausing for 40 s after action 1 in a row")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("ledger", "facts", "rules", "decision"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_decisions(ledger: Ledger, facts: Facts, rules: RecoveryRules, decision: Decision) -> None:
    assert decide(ledger, facts, rules) == decision


@pytest.mark.parametrize(
    ("before", "state", "reason", "after"),
    [
        (Ledger(), State.CRITICAL, Reason.CANARY_FAILED, Ledger(unhealthy_since=1000.0)),
        (DOWN, State.CRITICAL, Reason.PORT_UNREACHABLE, replace(DOWN, closed=True)),
        (replace(DOWN, closed=True), State.CRITICAL, Reason.SERVER_UNANSWERED, OPENED),
        (OPENED, State.CRITICAL, Reason.MODEL_HUNG, OPENED),
        (replace(OPENED, opened=950.0), State.CRITICAL, Reason.PORT_UNREACHABLE,
         replace(DOWN, closed=True)),
        (OPENED, State.PASSING, Reason.OK, Ledger(healthy_since=1000.0)),
        (DOWN, State.CRITICAL, Reason.CONFIG, Ledger()),
        (DOWN, State.DRAINING, Reason.DRAINING, Ledger()),
        (DOWN, State.PASSING, Reason.OK, Ledger(healthy_since=1000.0)),
        (DOWN, State.WARNING, Reason.MODEL_BUSY, Ledger(healthy_since=1000.0)),
        (Ledger(healthy_since=900.0), State.WARNING, Reason.GPU_HOT, Ledger(healthy_since=900.0)),
        (Ledger(healthy_since=900.0), State.STARTING, Reason.NOT_PROVEN_YET, Ledger()),
        (Ledger(healthy_since=401.0, streak=2, gave_up="x"), State.PASSING, Reason.OK,
         Ledger(healthy_since=401.0, streak=2, gave_up="x")),
        (Ledger(healthy_since=400.0, streak=2, gave_up="x"), State.PASSING, Reason.OK,
         Ledger(healthy_since=400.0)),
    ],
)  # fmt: skip
def test_what_a_verdict_does_to_the_ledger(
    before: Ledger, state: State, reason: Reason, after: Ledger
) -> None:
    assert observe(before, Facts(state, reason, 1000.0), RULES) == after


def test_an_action_lengthens_the_streak_and_is_remembered_for_an_hour() -> None:
    long_ago, lately, new = (Attempt(at, at + 1) for at in (1000.0, 1001.0, 1000 + HOUR))
    before = Ledger(attempts=(long_ago, lately), streak=2)
    assert acted(before, new) == Ledger(attempts=(lately, new), streak=3, restarted=True)


def test_a_load_that_completes_a_restart_is_part_of_it() -> None:
    load = Attempt(950.0, 951.0, loaded=True)
    whole = acted(RESTARTED, load)
    assert whole.attempts[-1] == replace(load, completing=True)
    assert (whole.streak, whole.restarted) == (1, False)
    assert decide(whole, replace(FAILED, now=1100.0), replace(RULES, budget=2)) == Act(
        "CANARY_FAILED: m: no"
    )
    assert acted(whole, load).streak == 2  # a model that is unloaded later is a separate case
    well = observe(RESTARTED, Facts(State.PASSING, Reason.OK, 945.0), RULES)
    assert acted(well, load).streak == 2
    failed = acted(DOWN, Attempt(900.0, 910.0, "no such unit"))
    assert acted(failed, load).streak == 2


def test_a_dry_run_completes_no_restart_that_was_taken() -> None:
    pretended = acted(RESTARTED, Attempt(930.0, 930.0, dry_run=True))
    assert pretended.restarted
    assert not reloaded(pretended, RULES).restarted
    assert reloaded(RESTARTED, RULES).restarted


def test_only_a_recovery_that_gave_up_starts_over_at_a_reload() -> None:
    spent = tried(700.0, 800.0)
    assert reloaded(spent, RULES) == spent
    assert reloaded(replace(gave_up(spent, "x"), healthy_since=950.0), RULES) == Ledger(
        healthy_since=950.0
    )


def test_the_pretended_actions_of_a_dry_run_count_until_it_ends() -> None:
    taken = tried(700.0)
    pretended = acted(
        acted(taken, Attempt(799.0, 799.0, dry_run=True)), Attempt(899.0, 899.0, "", True)
    )
    assert (len(pretended.attempts), pretended.streak) == (3, 3)
    assert reloaded(pretended, replace(RULES, dry_run=True)) == pretended
    assert reloaded(pretended, RULES) == taken
    alone = acted(DOWN, Attempt(899.0, 899.0, dry_run=True))
    assert reloaded(alone, RULES) == DOWN
    # The action that was taken is forgotten after an hour, and its pause with it.
    late = acted(taken, Attempt(699.0 + HOUR, 699.0 + HOUR, dry_run=True))
    assert reloaded(late, RULES) == DOWN


def test_reasons_that_no_restart_fixes() -> None:
    critical = {reason for reason in Reason if reason.level is Level.CRITICAL}
    assert critical >= FIXED_BY_RESTART
    assert critical - FIXED_BY_RESTART == {
        *(Reason.NOT_PROVEN_YET, Reason.CONFIG, Reason.MODEL_WRONG_VERSION),
        *(Reason.DRAINING, Reason.MAINTENANCE, Reason.COLD_STANDBY),
        *(Reason.MODEL_SET_DIFFERS, Reason.GPU_ROW_REMAP_FAILED),
    }
    assert HUNG <= FIXED_BY_RESTART


@pytest.mark.parametrize(
    ("ledger", "decision", "at"),
    [
        (DOWN, Wait(1001.0, ""), 1001.0),
        (DOWN, Wait(None, ""), None),
        (DOWN, Idle(), None),
        (Ledger(healthy_since=900.0), Idle(), None),
        (Ledger(healthy_since=900.0, streak=1), Idle(), 1500.0),
        (Ledger(healthy_since=900.0, gave_up="x"), GiveUp("x"), 1500.0),
        (Ledger(gave_up="x"), GiveUp("x"), None),
    ],
)
def test_when_it_decides_again(ledger: Ledger, decision: Decision, at: float | None) -> None:
    assert wake_at(ledger, decision, RULES) == at


@given(st.integers(1, 10_000))
def test_pauses_never_shrink_and_stay_within_their_bounds(streak: int) -> None:
    shorter, longer = (pause(Ledger(streak=n), RULES) for n in (streak, streak + 1))
    assert RULES.grace <= shorter <= longer <= RULES.max_pause


@given(
    unhealthy=st.integers(0, 100),
    ended=st.integers(0, 200),
    streak=st.integers(0, 5),
    reason=st.sampled_from([Reason.CANARY_FAILED, Reason.MODEL_HUNG]),
    share=st.floats(0, 1, exclude_max=True),
)
def test_while_it_waits_only_an_event_changes_the_decision(
    unhealthy: int, ended: int, streak: int, reason: Reason, share: float
) -> None:
    ledger = Ledger(1000.0 - unhealthy, None, (Attempt(999.0 - ended, 1000.0 - ended),), streak)
    facts = Facts(State.CRITICAL, reason, 1000.0)
    decided = decide(ledger, facts, RULES)
    if isinstance(decided, Wait):
        assert decided.until is not None
        assert decided.until > 1000.0
        early = replace(facts, now=min(1000 + (decided.until - 1000) * share, decided.until - 1e-9))
        assert decide(ledger, early, RULES) == decided
        assert decide(ledger, replace(facts, now=decided.until), RULES) != decided


class Attack(RuleBasedStateMachine):
    """Drives the decision as the loop does, and counts separately what was allowed."""

    @initialize(
        bounds=st.builds(
            RecoveryRules,
            after=st.sampled_from([0.0, 30.0]),
            hung_after=st.sampled_from([0.0, 5.0]),
            budget=st.integers(1, 4),
            pause=st.sampled_from([1.0, 30.0, 900.0]),
            max_pause=st.sampled_from([900.0, 2000.0]),
            grace=st.sampled_from([0.0, 60.0]),
            forget_after=st.sampled_from([60.0, 600.0]),
            allow_others_down=st.booleans(),
        )
    )
    def begin(self, bounds: RecoveryRules) -> None:
        self.bounds = bounds
        self.now = 1000.0
        self.ledger = Ledger()
        self.state, self.reason = State.STARTING, Reason.NOT_PROVEN_YET
        self.others = Peers(2, 0)
        self.healthy_from: float | None = None
        self.actions: list[tuple[float, float]] = []
        self.gaps: list[float] = []  # between actions without a long healthy period
        self.last: float | None = None  # end of the last action since a long healthy period
        self.gave_up = self.paused = False

    @rule(
        verdict=st.sampled_from(
            [
                (State.CRITICAL, Reason.CANARY_FAILED),
                (State.CRITICAL, Reason.MODEL_HUNG),
                (State.CRITICAL, Reason.CONFIG),
                (State.PASSING, Reason.OK),
                (State.WARNING, Reason.MODEL_BUSY),
                (State.STARTING, Reason.NOT_PROVEN_YET),
                (State.DRAINING, Reason.DRAINING),
                (State.MAINTENANCE, Reason.MAINTENANCE),
            ]
        )
    )
    def see(self, verdict: tuple[State, Reason]) -> None:
        self.state, self.reason = verdict
        if self.state not in (State.PASSING, State.WARNING):
            self.healthy_from = None
        elif self.healthy_from is None:
            self.healthy_from = self.now
        self.step()

    @rule(
        others=st.sampled_from(
            [
                Peers(2, 0),
                Peers(2, 1),
                Peers(0, 0),
                Peers(unknown="?"),
            ]
        )
    )
    def read_others(self, others: Peers) -> None:
        self.others = others
        self.step()

    @rule(seconds=st.sampled_from([0.5, 5.0, 31.0, 61.0, 700.0, 1300.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; the loop wakes up whenever it asked to."""
        until = self.now + seconds
        while (at := self.wake()) is not None and self.now < at <= until:
            self.now = at
            self.step()
        self.now = until
        self.step()

    @rule()
    def pause(self) -> None:
        self.paused = True
        self.step()

    @rule()
    def resume(self) -> None:
        self.paused = False
        self.step()

    @rule()
    def reload(self) -> None:
        if self.gave_up:
            self.actions, self.gaps, self.last = [], [], None
        self.ledger = reloaded(self.ledger, self.bounds)
        self.gave_up = False
        self.step()

    def facts(self, others: Peers | None = None) -> Facts:
        return Facts(self.state, self.reason, self.now, "", others, self.paused)

    def wake(self) -> float | None:
        decided = decide(self.ledger, self.facts(self.others), self.bounds)
        return wake_at(self.ledger, decided, self.bounds)

    def step(self) -> None:
        """One round of the loop; each action takes two seconds and fixes nothing."""
        healthy_from = self.now if self.healthy_from is None else self.healthy_from
        if self.now >= healthy_from + self.bounds.forget_after:
            self.gave_up, self.gaps, self.last = False, [], None
        while True:
            self.ledger = observe(self.ledger, self.facts(), self.bounds)
            decided = decide(self.ledger, self.facts(), self.bounds)
            if isinstance(decided, GatherFacts):
                assert not self.bounds.allow_others_down
                decided = decide(self.ledger, self.facts(self.others), self.bounds)
            if self.gave_up:
                assert isinstance(decided, GiveUp)
            if self.paused:
                assert not isinstance(decided, Act)
                assert isinstance(decided, GiveUp) <= self.gave_up
            if isinstance(decided, GiveUp):
                self.ledger, self.gave_up = gave_up(self.ledger, decided.why), True
            if not isinstance(decided, Act):
                return
            self.act()

    def act(self) -> None:
        assert (self.state, self.reason) in (
            (State.CRITICAL, Reason.CANARY_FAILED),
            (State.CRITICAL, Reason.MODEL_HUNG),
        )
        assert self.bounds.allow_others_down or self.others in (
            Peers(2, 0),
            Peers(0, 0),
        )
        if self.last is not None:
            self.gaps.append(self.now - self.last)
        began, self.now = self.now, self.now + 2.0
        self.actions.append((began, self.now))
        self.last = self.now
        self.ledger = acted(self.ledger, Attempt(began, self.now))

    @invariant()
    def the_ledger_holds_exactly_the_actions(self) -> None:
        if hasattr(self, "ledger"):
            assert {each.began for each in self.ledger.attempts} <= {at for at, _ in self.actions}
            assert bool(self.ledger.gave_up) <= self.gave_up

    @invariant()
    def no_hour_has_more_actions_than_the_budget(self) -> None:
        for began, _ in getattr(self, "actions", []):
            within = [at for at, _ in self.actions if 0 <= at - began < HOUR]
            assert len(within) <= self.bounds.budget

    @invariant()
    def pauses_grow(self) -> None:
        for place, gap in enumerate(getattr(self, "gaps", [])):
            least = min(self.bounds.pause * 2**place, self.bounds.max_pause)
            assert gap >= max(least, self.bounds.grace) - 1e-6


TestAttack = Attack.TestCase
